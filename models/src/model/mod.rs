//! The decoder-only transformer of the Llama family.
//!
//! Field names are those of the Hugging Face checkpoints, so that weights load by name.

mod causal_lm;
mod experts;
mod feed_forward;
mod language_model;
mod layer;
mod mlp;

pub use causal_lm::CausalLm;
pub(crate) use causal_lm::capped;
pub use experts::SparseMlp;
pub(crate) use experts::route;
pub use feed_forward::FeedForward;
pub use language_model::LanguageModel;
pub use layer::DecoderLayer;
pub use mlp::Mlp;

use burn::nn::LinearLayout;

/// How the projections lie in memory: as the checkpoints have them, so that loading transposes
/// nothing and a decoded token reads each weight row in one piece.
///
/// Both on the CPU and on GPUs this decodes faster than `Row` in f32 and f16. In bf16 the CPU
/// backend copies such weights at every product; there f32 and f16 are the dtypes to use.
pub(crate) const LAYOUT: LinearLayout = LinearLayout::Col;
