//! Prompts that leave tokens behind on their way through the layers
//! ([LazyLLM](https://arxiv.org/abs/2407.14057)).
//!
//! The layers between two places where tokens leave are a stage. A stage computes and holds the same tokens in all
//! of its layers, so each has a KV cache of its own; that of the first stage holds every token and is the session's.
//! A token keeps the position that it has in the text, whatever its place in a cache.

mod decode;
mod left;
mod prefill;
mod rows;
mod stages;
mod worth;

pub(crate) use stages::{LaterStages, check};
