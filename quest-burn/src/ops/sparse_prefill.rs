use burn::tensor::{Tensor, assert_shape};

#[cfg(feature = "cube")]
use super::kernel;
use super::{Body, check_prefill, reference};
#[cfg(feature = "flex")]
use crate::simd;
use crate::{
    cache::{LayerCache, Step},
    pages::PastPages,
};

/// Causal attention of the new tokens of a step over listed pages of the past, and over the new tokens
/// themselves.
///
/// A sequence whose lists name all of its past gets what
/// [`prefill_attention`](super::prefill_attention) gives.
///
/// # Shapes
///
/// - query: `[batch, n_heads, max_new_tokens, head_dim]`
/// - output: `[batch, n_heads, max_new_tokens, head_dim]`; zeros past the tokens that a sequence gains
///
/// # Panics
///
/// When the shapes do not fit the cache and the step, or a sequence lists more pages than its past has.
pub fn sparse_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    past: &PastPages,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    check_prefill(&query, cache, step);
    check_past(past, cache, step);
    let body = Body::of_attention(cache, &query.device());
    #[cfg(feature = "cube")]
    let body = body.where_kernels(|| kernel::prefills_sparsely(cache));
    match body {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::sparse_prefill_attention(query, cache, past, step, scale),
        #[cfg(feature = "flex")]
        Body::Native => simd::sparse_prefill_attention(query, cache, past, step, scale),
        Body::Reference => reference::sparse_prefill_attention(query, cache, past, step, scale),
    }
}

fn check_past(past: &PastPages, cache: &LayerCache, step: &Step) {
    let [_, n_kv_heads, _, _] = cache.pool.keys.dims();
    let [_, _, k] = past.ids.dims();
    assert_shape!(past.ids, [step.batch(), n_kv_heads, k]);
    assert_eq!(
        past.counts.len(),
        step.batch(),
        "counts of listed pages: one for each sequence"
    );
    for (sequence, &count) in past.counts.iter().enumerate() {
        let most = step.past_pages(sequence).min(k);
        assert!(
            count <= most,
            "listed pages: expected at most {most} of sequence {sequence}, found {count}"
        );
    }
}
