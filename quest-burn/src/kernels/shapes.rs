//! Shapes of results, which Fusion is told before a kernel runs.

use burn::{backend::fusion::custom::TensorSpec, tensor::Shape};

use super::{
    operands::{DigestsMetadata, PoolMetadata, RowsMetadata},
    page_scores::Scoring,
};

pub(super) fn scores(query: &Shape, digests: &DigestsMetadata, scoring: &Scoring) -> Shape {
    let (DigestsMetadata::Full { rows, .. } | DigestsMetadata::Int8 { rows, .. }) = digests;
    let heads = scoring.rule.lists(query[1], rows.shape[1]);
    Shape::from([query[0], heads, scoring.n_scores])
}

pub(super) fn ids(scores: &Shape, k: usize) -> Shape {
    Shape::from([scores[0], scores[1], k])
}

/// The queries of a merged projection `[batch, tokens, heads, head_dim]`.
pub(super) fn query_of(pool: &PoolMetadata, qkv: &TensorSpec) -> TensorSpec {
    let (RowsMetadata::Full { rows: keys } | RowsMetadata::Int8 { words: keys, .. }) = &pool.keys;
    let n_heads = qkv.shape[2] - 2 * keys.shape[1];
    let shape = Shape::from([qkv.shape[0], n_heads, qkv.shape[1], qkv.shape[3]]);
    TensorSpec::new(shape, qkv.dtype)
}
