//! Layers in the form that decoding is fastest in: not trained, not saved.
//!
//! Projections that read the same hidden states are merged, so that a token reads each weight once
//! and the device gets fewer and larger products.

mod attention;
mod linear;

pub use attention::InferenceAttention;
pub use linear::InferenceLinear;
