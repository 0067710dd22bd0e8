//! Decoder-only language models of the Llama family with Quest attention.
//!
//! A Hugging Face folder (`config.json`, weights, `tokenizer.json`) or a GGUF file becomes a
//! [`LocalModel`](local::LocalModel), and a conversation with it a [`Session`](session::Session):
//!
//! ```
//! use burn::tensor::Device;
//! use quest_burn::QuestConfig;
//! use quest_burn_models::{generation::GenerationConfig, local::LocalModel};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
//! # let config = GenerationConfig::new().with_max_new_tokens(4);
//! # /*
//! let path = "path/to/model";
//! let config = GenerationConfig::new();
//! # */
//! let device = Device::default();
//! let model = LocalModel::open(path)?.policy(QuestConfig::new()).load(&device)?;
//! let mut session = model.session()?;
//! for text in session.generate("Once upon a time", config)? {
//!     print!("{}", text?);
//! }
//! # assert_eq!(session.len(), session.ids().len());
//! # Ok(())
//! # }
//! ```
//!
//! What they are made of is here too: [`source`], [`config`], [`weights`], [`tokenizer`]; [`model::CausalLm`],
//! whose attention is [`quest_burn::attention::QuestAttention`]; [`generation`] over a cache of one's
//! own; [`sampling`].
//!
//! A chat model's template turns messages into the ids of a prompt: [`chat`].

pub mod chat;
pub mod config;
mod error;
pub mod generation;
pub mod gguf;
pub mod inference;
pub mod local;
pub mod model;
pub mod sampling;
pub mod session;
pub mod source;
pub mod tokenizer;
pub mod weights;

pub use error::{MisshapenTensor, ModelError, TensorMismatch};

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
