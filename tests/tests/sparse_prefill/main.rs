//! Prompts that attend to listed pages of the past: the attention against a naive one, and which pages are
//! listed.
//!
//! Runs on the devices that `QUEST_TEST_DEVICES` names.

mod attention;
mod choice;
mod prompt;
