//! From the events of an answer to what a client is sent.

pub(crate) mod calls;
mod choice;
mod stop;

pub(crate) use choice::{Choice, ChoiceOptions, Delta, TokenInfo};
