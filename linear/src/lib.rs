#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod blocks;
#[cfg(feature = "flex")]
#[doc(hidden)]
pub mod flex;
#[cfg(feature = "cube")]
pub mod kernels;
mod layer;
#[cfg(feature = "native")]
pub mod native;
mod norm;

pub use layer::{
    BlockWeight, InferenceLinear, InputObserver, LinearWeight, LowRank, QuantizationConfig,
    QuantizationError, QuantizedWeight, RowRounding, SparseWeight, WeightFormat, channel_norms,
};
pub use norm::rms_norm;
