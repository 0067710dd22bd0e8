#![doc = include_str!("../README.md")]
//!
//! ## Where to begin
//!
//! - [`attention::QuestAttention`] is the layer to put into a model;
//! - [`cache::PagedKvCache`] holds keys, values and digests; [`digest`] says of what kind those are;
//! - [`QuestConfig`] says how pages are chosen, [`policy::PagePolicy`] is the choice itself;
//! - [`ops`] are the operations underneath.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod attention;
pub mod cache;
mod config;
pub mod decode;
pub mod digest;
pub mod inference;
#[cfg(feature = "kernel-cache")]
pub mod kernel_cache;
#[cfg(feature = "cube")]
pub mod kernels;
pub mod ops;
pub mod policy;
#[cfg(feature = "flex")]
mod simd;

pub use config::{NewestPage, PageSharing, QuestConfig, QuestConfigError};
