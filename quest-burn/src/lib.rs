//! Quest attention for [Burn](https://burn.dev): query-aware KV-cache page sparsity for
//! long-context decoding, after [Tang et al., ICML 2024](https://arxiv.org/abs/2406.10774).
//!
//! Decoding one token of a long context is bound by reading the KV cache. Quest keeps the whole
//! cache, in pages of a few tokens, and a *digest* of each page: in the paper the minimum and maximum
//! of its keys per channel, which bound the attention score of every key in the page; by default their
//! mean and standard deviation, which choose better pages of real text. Only the pages with the highest
//! scores are read.
//!
//! - [`attention::QuestAttention`] is the layer to put into a model;
//! - [`cache::PagedKvCache`] holds keys, values and digests; [`digest`] says of what kind those are;
//! - [`QuestConfig`] says how pages are chosen, [`policy::PagePolicy`] is the choice itself;
//! - [`ops`] are the four operations underneath.
//!
//! ```
//! use burn::tensor::{DType, Device, Distribution, Tensor};
//! use quest_burn::{QuestConfig, attention::QuestAttentionConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::default();
//! let attention = QuestAttentionConfig::new(64, 4)
//!     .with_n_kv_heads(Some(2))
//!     .init(&device);
//! let policy = QuestConfig::new().with_token_budget(32).with_dense_layers(0).init()?;
//! let mut cache = attention.cache_config(256).init(&device, DType::F32)?;
//!
//! let prompt = Tensor::<3>::random([1, 100, 64], Distribution::Default, &device);
//! let step = cache.prefill(&[100])?;
//! attention.forward_cache(prompt, cache.layer_mut(0), &step, &policy);
//!
//! let token = Tensor::<3>::random([1, 1, 64], Distribution::Default, &device);
//! let step = cache.decode()?;
//! let out = attention.forward_cache(token, cache.layer_mut(0), &step, &policy);
//! assert_eq!(out.dims(), [1, 1, 64]);
//! # Ok(())
//! # }
//! ```

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
