//! Choosing the next token from a row of logits, on the host.
//!
//! The filters come in the order of Hugging Face transformers: repetition penalty, temperature,
//! top-k, top-p, min-p. Ties always go to the lower id, so that a run can be repeated anywhere.

mod config;
mod defaults;
mod distribution;
mod error;
mod filters;
mod mask;
mod sampler;

pub use config::SamplingConfig;
pub use defaults::SamplingDefaults;
pub use distribution::Distribution;
pub use error::{SampleError, SamplingConfigError};
pub use mask::{MaskError, TokenMask, forbid_others};
pub use sampler::Sampler;
