//! Scores of pages by their digests, of any kind, stored in one of two ways: a file for each loads and
//! sums, the rest serves both.

mod full;
mod int8;
mod int8_matrix;
mod pages;
mod plan;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor},
};
use burn_cubecl::tensor::CubeTensor;

pub(crate) use self::{full::launch_page_scores, int8::launch_int8_page_scores};
use super::check::{
    check_digests, check_dtype, check_groups, check_pool, check_scoring, check_sequences,
};
use crate::{PageSharing, digest::DigestKind, ops::extension::QuestOps};

/// Scores of each of the first `n_scores` pages by their digests.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - digests: `[n_pages, n_kv_heads, rows, channels]` as the kind says
/// - page_table: `[batch, max_pages]`
/// - lengths: `[batch]`
/// - output: `[batch, heads, n_scores]` in f32 with `heads` the query heads, or the KV heads and
///   the maximum over each group. Entries past a sequence's pages are undefined.
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn page_scores(
    query: Tensor<3>,
    digests: Tensor<4>,
    digest: DigestKind,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    page_size: usize,
    sharing: PageSharing,
    n_scores: usize,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, _] = digests.dims();
    let [batch, n_heads, head_dim] = query.dims();
    check_digests(&digests, digest, [n_pages, n_kv_heads, head_dim]);
    check_sequences(batch, &page_table, &lengths);
    check_dtype("query", query.dtype(), digests.dtype());
    check_groups(n_heads, n_kv_heads);
    check_pool(&digests, head_dim);
    check_scoring(page_size, n_scores);
    Tensor::from_dispatch(Dispatch::page_scores(
        query.into_dispatch(),
        digests.into_dispatch(),
        digest,
        page_table.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        page_size,
        sharing == PageSharing::KvHead,
        n_scores,
    ))
}

/// The digests of a pool in either form.
#[allow(
    clippy::large_enum_variant,
    reason = "one is made per launch, and not stored"
)]
pub(crate) enum Digests {
    Full(CubeTensor),
    Int8 {
        words: CubeTensor,
        scales: CubeTensor,
    },
}

impl Digests {
    /// Bounds of the attention scores of each page, `[batch, heads, n_scores]`.
    pub(crate) fn page_scores(
        self,
        query: CubeTensor,
        digest: DigestKind,
        page_table: CubeTensor,
        lengths: CubeTensor,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> CubeTensor {
        match self {
            Self::Full(digests) => launch_page_scores(
                query, digests, digest, page_table, lengths, page_size, shared, n_scores,
            ),
            Self::Int8 { words, scales } => launch_int8_page_scores(
                query, words, scales, digest, page_table, lengths, page_size, shared, n_scores,
            ),
        }
    }
}
