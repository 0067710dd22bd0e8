//! Layers in the form that decoding is fastest in: not trained, not saved.

mod blocks;
mod contiguous;
#[cfg(feature = "cube")]
mod device_blocks;
mod fused;
mod linear;
#[cfg(feature = "flex")]
mod native;
mod quantization;
mod quantized;
mod sparse;
mod weight;

pub use blocks::BlockWeight;
pub use linear::{InferenceLinear, RowRounding};
pub use quantization::{QuantizationConfig, QuantizationError, WeightFormat};
pub use quantized::QuantizedWeight;
pub use sparse::{InputObserver, LowRank, SparseWeight, channel_norms};
pub use weight::LinearWeight;
