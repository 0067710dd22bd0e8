//! Decoder-only language models of the Llama family with Quest attention.
//!
//! A Hugging Face folder (`config.json`, weights, `tokenizer.json`) becomes a [`model::CausalLm`]
//! whose attention is [`quest_burn::attention::QuestAttention`].

pub mod config;
mod error;
pub mod generation;
pub mod inference;
pub mod model;
pub mod sampling;
pub mod tokenizer;
pub mod weights;

pub use error::{MisshapenTensor, ModelError, TensorMismatch};
