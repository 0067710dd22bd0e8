//! Attention by single tokens, and true scores. On every device these run in tensor operations: the
//! policies that need them are here to be compared with, and no kernel was written for them.

use burn::tensor::{Int, Tensor};

use super::{check_query, paged_attention, reference};
use crate::{
    cache::{LayerCache, Step},
    pages::{PageScoring, Pages, TokenLists},
};

/// What [`token_attention`] gives.
#[derive(Clone, Debug)]
pub struct TokenAttention {
    /// `[batch, n_heads, head_dim]`
    pub output: Tensor<3>,
    /// For each sequence, the softmax weights of its listed tokens, `[n_heads, n]` in f32; none
    /// where attention was dense, or where no token was gained.
    pub weights: Vec<Option<Tensor<2>>>,
}

/// Attention of each sequence's newest token over single tokens: only their rows are read.
///
/// A sequence whose lists name all of its tokens is attended to as by [`paged_attention`] over all
/// pages, so that the results are the same to the last bit. The others run in tensor operations on
/// every device.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn token_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    lists: &TokenLists,
    step: &Step,
    scale: f64,
) -> TokenAttention {
    check_query(&query, cache, step);
    assert_eq!(
        lists.positions.len(),
        step.batch(),
        "sequences of the lists and of the step"
    );
    let is_dense = |sequence: usize| {
        step.new_tokens(sequence) == 0 || lists.covers(sequence, step.lengths()[sequence])
    };
    // Rows of sequences that are not dense are zeros here, and their pages are not read.
    let dense = (0..step.batch()).any(is_dense).then(|| {
        let step = step.only(is_dense);
        paged_attention(query.clone(), cache, &Pages::All, &step, scale)
    });
    let attention = (0..step.batch()).map(|sequence| match &dense {
        Some(dense) if is_dense(sequence) => (dense.clone().slice([sequence..sequence + 1]), None),
        _ => {
            let positions = &lists.positions[sequence];
            let shift = lists.shift.as_ref();
            let query = query.clone();
            let (output, weights) =
                reference::token_attention(query, cache, positions, shift, step, sequence, scale);
            (output, Some(weights))
        }
    });
    let (outputs, weights): (Vec<_>, Vec<_>) = attention.unzip();
    TokenAttention {
        output: Tensor::cat(outputs, 0),
        weights,
    }
}

/// The attention that one sequence's newest token would pay to some tokens, if it saw nothing else.
/// Values are not read; on every device this runs in tensor operations.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - positions: `[heads, n]`, as in [`TokenLists`]
/// - output: `[n_heads, n]` in f32
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn token_weights(
    query: Tensor<3>,
    cache: &LayerCache,
    positions: Tensor<2, Int>,
    step: &Step,
    sequence: usize,
    scale: f64,
) -> Tensor<2> {
    check_query(&query, cache, step);
    reference::token_weights(query, cache, &positions, step, sequence, scale)
}

/// The products of one sequence's query with every key that it holds, unscaled. On every device
/// this runs in tensor operations.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - output: `[n_heads, length]` in f32
///
/// # Panics
///
/// When the shapes do not fit the cache and the step, or the sequence holds no token.
pub fn token_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sequence: usize,
) -> Tensor<2> {
    check_query(&query, cache, step);
    reference::token_scores(query, cache, step, sequence)
}

/// The highest product of the query with a key of each page: what [`page_scores`](super::page_scores) is a bound of. On
/// every device this runs in tensor operations.
///
/// # Shapes
///
/// As [`page_scores`](super::page_scores).
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn true_page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    scoring: impl Into<PageScoring>,
) -> Tensor<3> {
    check_query(&query, cache, step);
    reference::true_page_scores(query, cache, step, scoring.into())
}
