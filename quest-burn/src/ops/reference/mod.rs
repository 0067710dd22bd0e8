//! The operations in Burn tensor operations: every backend runs them, and kernels are tested
//! against them.
//!
//! They work on one sequence at a time and read what the host knows of it, so that a sequence's
//! result does not depend on the rest of the batch. Keys and values are never repeated for the
//! query heads of a group, and the pages that are not listed are not touched.

mod append;
mod attention;
mod int8;
mod pool;
mod positioned;
mod prefill;
mod rotate_append;
mod scores;
mod select;
mod softmax;
mod tokens;

pub use append::append;
pub use attention::paged_attention;
pub use int8::quantize_digests;
pub use positioned::positioned_prefill_attention;
pub use prefill::{prefill_attention, sparse_prefill_attention, window_prefill_attention};
pub use rotate_append::rotate_append;
pub use scores::page_scores;
pub use select::{best_places, top_pages};
pub(crate) use softmax::capped;
pub use tokens::{token_attention, token_scores, token_weights, true_page_scores};

pub use crate::cache::quantized;
