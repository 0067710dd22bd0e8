//! Shapes of results, which Fusion is told before a kernel runs.

use burn::{backend::fusion::custom::TensorSpec, tensor::Shape};

pub fn scores(query: &Shape, n_kv_heads: usize, shared: &bool, n_scores: &usize) -> Shape {
    let heads = if *shared { n_kv_heads } else { query[1] };
    Shape::from([query[0], heads, *n_scores])
}

pub fn ids(scores: &Shape, k: &usize) -> Shape {
    Shape::from([scores[0], scores[1], *k])
}

/// The queries of a merged projection `[batch, tokens, heads, head_dim]`.
pub fn query_of(keys: &TensorSpec, qkv: &TensorSpec) -> TensorSpec {
    let n_heads = qkv.shape[2] - 2 * keys.shape[1];
    let shape = Shape::from([qkv.shape[0], n_heads, qkv.shape[1], qkv.shape[3]]);
    TensorSpec::new(shape, qkv.dtype)
}
