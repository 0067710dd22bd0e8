#![doc = include_str!("../README.md")]
//!
//! ## Where to begin
//!
//! - [`local::LocalModel`] is a checkpoint, [`session::Session`] a sequence with it;
//! - [`chat`] turns messages into the ids of a prompt through a model's template;
//! - [`source`], [`config`], [`weights`] and [`tokenizer`] are what a checkpoint is made of;
//! - [`mod@convert`] writes a checkpoint as a folder of safetensors or burnpack;
//! - [`activation_sparsity`] skips input channels of projections in decoded tokens;
//! - [`model::CausalLm`] is the model, [`generation`] runs it over a cache of one's own, [`sampling`] picks tokens.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod activation_sparsity;
pub(crate) mod architectures;
pub mod chat;
pub mod config;
pub mod convert;
mod error;
pub mod generation;
pub mod gguf;
#[cfg(feature = "grammar")]
#[cfg_attr(docsrs, doc(cfg(feature = "grammar")))]
pub mod grammar;
pub mod inference;
mod lazy;
pub mod local;
pub mod model;
pub mod sampling;
pub mod session;
pub mod source;
pub mod speculative;
pub mod tokenizer;
pub mod weights;

pub use error::{MisshapenTensor, ModelError, TensorMismatch};
