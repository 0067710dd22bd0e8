use burn::tensor::{Int, Tensor};

use super::{check_prefill, reference};
use crate::cache::{LayerCache, Step};

/// [`prefill_attention`](super::prefill_attention) of one sequence whose tokens are not in the order of their positions: a token sees those
/// whose position is not behind its own. On every device this runs in tensor operations.
///
/// # Shapes
///
/// - query: `[1, n_heads, max_new_tokens, head_dim]`
/// - positions: those of all tokens in the cache, in the order of their places, `[length]` or more
/// - output: `[1, n_heads, max_new_tokens, head_dim]`
///
/// # Panics
///
/// When the shapes do not fit the cache and the step, or there are several sequences.
pub fn positioned_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    positions: &Tensor<1, Int>,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    assert_eq!(step.batch(), 1, "sequences of a step with positions");
    check_prefill(&query, cache, step);
    reference::positioned_prefill_attention(query, cache, positions, step, scale)
}
