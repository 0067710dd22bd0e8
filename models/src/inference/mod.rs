//! A model in the form that it generates and scores fastest in: the same weights, merged where
//! they read the same hidden states.
//!
//! A [`CausalLm`](crate::model::CausalLm) has the parameters of its checkpoint, by their names: it
//! is what is loaded, trained and saved. [`InferenceLm`] is made from it and gives the same logits.

mod feed_forward;
mod layer;
mod model;

pub(crate) use feed_forward::{InferenceExperts, InferenceFeedForward, InferenceMlp};
pub use layer::InferenceLayer;
pub(crate) use layer::LayerNorms;
pub use model::InferenceLm;
