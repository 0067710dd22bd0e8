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
pub mod decode;
pub mod digest;
mod fixed_point;
pub mod inference;
#[cfg(feature = "kernel-cache")]
pub mod kernel_cache;
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod kernels;
pub mod ops;
mod pages;
pub mod policy;
pub mod rope;
#[cfg(feature = "cube")]
mod row_load;
#[cfg(feature = "flex")]
mod simd;

pub use fixed_point::{FixedPoint, FixedPointError};
pub use pages::{GroupRule, GroupRuleError, PageScoring, PageSharing};
pub use policy::{NewestPage, QuestConfig, QuestConfigError};
