//! Scores of pages by their digests.
//!
//! | kernel | digests | where |
//! |---|---|---|
//! | [`mod@kernel`] | of any kind, stored in any form: [`mod@load`] | every device |
//! | [`mod@matrix`] | the same but for squared deviations, by matrix instructions | CUDA, half precision, groups of 2 to 8 query heads |

mod kernel;
mod load;
mod matrix;
mod pages;
mod plan;

use burn::{backend::Dispatch, tensor::Tensor};

pub(super) use self::kernel::launch;
use super::{
    check::{check_digests, check_groups, check_kernels, check_scoring, check_sequences},
    extension::QuestOps,
};
use crate::{
    cache::{self, Sequences},
    pages::PageScoring,
};

/// What [`page_scores`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// Tokens of a page.
    pub page_size: usize,
    /// How scores are made, and which query heads share one.
    pub rule: PageScoring,
    /// Pages of each sequence that are scored.
    pub n_scores: usize,
}

/// Scores of each of the first `n_scores` pages by their digests, those in 8 bits where there are
/// some.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - output: `[batch, heads, n_scores]` in f32 with `heads` the query heads, or the KV heads and
///   the maximum or mean over each group. Entries past a sequence's pages are undefined.
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn page_scores(
    query: Tensor<3>,
    digests: &cache::Digests,
    sequences: &Sequences,
    scoring: Scoring,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, _] = digests.rows.dims();
    let [batch, n_heads, head_dim] = query.dims();
    check_digests(digests, [n_pages, n_kv_heads, head_dim], query.dtype());
    check_sequences(batch, sequences);
    check_groups(n_heads, n_kv_heads);
    check_kernels(
        &digests.rows.device(),
        query.dtype(),
        [n_pages, n_kv_heads],
        head_dim,
    );
    check_scoring(scoring.page_size, scoring.n_scores);
    Tensor::from_dispatch(Dispatch::page_scores(
        query.into_dispatch(),
        digests.clone().into(),
        sequences.into(),
        scoring,
    ))
}
