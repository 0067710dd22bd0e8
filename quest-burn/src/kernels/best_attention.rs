//! Attention over the pages with the highest scores, as one operation.

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor},
};
use burn_cubecl::tensor::CubeTensor;

use super::{
    check::{
        check_attention, check_bound, check_digests, check_dtype, check_scores, check_selection,
    },
    page_scores::Digests,
    paged_attention::launch_paged_attention,
    top_pages::launch_top_pages,
};
use crate::{PageSharing, digest::DigestKind, ops::extension::QuestOps};

/// The pages that [`best_attention`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BestPages {
    /// Pages of each list.
    pub k: usize,
    /// First pages that are always in.
    pub sink_pages: usize,
    /// Last pages that are always in.
    pub recent_pages: usize,
    /// Which query heads share a list.
    pub sharing: PageSharing,
    /// Most pages that a sequence has, now or when a captured step is replayed.
    pub n_pages_bound: usize,
}

/// [`page_scores`](super::page_scores()), [`top_pages`](super::top_pages()) and
/// [`paged_attention`](super::paged_attention()) as one operation: three launches, but one call of
/// the host.
///
/// # Shapes
///
/// As in the three operations.
///
/// # Panics
///
/// As the three operations.
pub fn best_attention(
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    digests: Tensor<4>,
    digest: DigestKind,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    scale: f32,
    pages: BestPages,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, head_dim] = keys.dims();
    let [_, max_pages] = page_table.dims();
    check_digests(&digests, digest, [n_pages, n_kv_heads, head_dim]);
    check_dtype("digests", digests.dtype(), keys.dtype());
    check_attention(&query, &keys, &values, &page_table, &lengths);
    check_selection(pages.k, pages.sink_pages, pages.recent_pages);
    check_bound(pages.n_pages_bound, max_pages);
    check_scores(pages.n_pages_bound);
    Tensor::from_dispatch(Dispatch::best_attention(
        query.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        digest,
        page_table.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        scale,
        pages,
    ))
}

/// Attention over the pages with the highest scores, in three launches. Handing pages from cube to
/// cube within one launch was measured and is slower (`docs/kernels.md`).
pub(crate) fn launch_best_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    digests: Digests,
    digest: DigestKind,
    page_table: CubeTensor,
    lengths: CubeTensor,
    scale: f32,
    best: BestPages,
) -> CubeTensor {
    let page_size = keys.meta.shape()[2];
    let scores = digests.page_scores(
        query.clone(),
        digest,
        page_table.clone(),
        lengths.clone(),
        page_size,
        best.sharing == PageSharing::KvHead,
        best.n_pages_bound,
    );
    let pages = launch_top_pages(
        scores,
        lengths.clone(),
        page_size,
        best.k,
        best.sink_pages,
        best.recent_pages,
    );
    launch_paged_attention(
        query,
        keys,
        values,
        Some(pages),
        page_table,
        lengths,
        scale,
        0,
    )
}
