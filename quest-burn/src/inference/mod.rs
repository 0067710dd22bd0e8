//! Layers in the form that decoding is fastest in: not trained, not saved.
//!
//! Projections that read the same hidden states are merged, so that a token reads each weight once
//! and the device gets fewer and larger products. Their weights may be rounded to 8 or 4 bits when a
//! model is loaded ([`WeightFormat`]), as what bounds a decode step is the bytes that it reads.

mod attention;

pub use attention::InferenceAttention;
pub use quest_burn_linear::{
    InferenceLinear, LinearWeight, QuantizationConfig, QuantizationError, QuantizedWeight,
    RowRounding, WeightFormat,
};
