//! Attention over the pages with the highest scores, as one operation.

use burn::{backend::Dispatch, tensor::Tensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

use super::{
    check::{check_attention, check_bound, check_digests, check_scores, check_selection},
    extension::QuestOps,
    operands::{PageList, Places, Pool},
    page_scores::{self, Scoring},
    paged_attention,
    top_pages::{self, TopPages},
};
use crate::{
    cache::{KvPool, Sequences},
    pages::{PageScoring, PageSelection},
};

/// The pages that [`top_k_attention`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopKPages {
    /// How they are chosen.
    pub selection: PageSelection,
    /// How pages are scored, and which query heads share a list.
    pub rule: PageScoring,
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
pub fn top_k_attention(
    query: Tensor<3>,
    pool: &KvPool,
    sequences: &Sequences,
    pages: TopKPages,
    scale: f32,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, head_dim] = pool.keys.dims();
    let [_, max_pages] = sequences.page_table.dims();
    check_digests(
        &pool.digests,
        [n_pages, n_kv_heads, head_dim],
        query.dtype(),
    );
    check_attention(&query, &pool.keys, &pool.values, sequences);
    check_selection(&pages.selection, 0);
    check_bound(pages.n_pages_bound, max_pages);
    check_scores(pages.n_pages_bound);
    Tensor::from_dispatch(Dispatch::top_k_attention(
        query.into_dispatch(),
        pool.clone().into(),
        sequences.into(),
        pages,
        scale,
    ))
}

/// Attention over the pages with the highest scores, in three launches. Handing pages from cube to
/// cube within one launch was measured and is slower (`docs/kernels.md`).
pub(super) fn launch(
    query: CubeTensor,
    pool: Pool<CubeBackend>,
    places: Places<CubeBackend>,
    best: TopKPages,
    scale: f32,
) -> CubeTensor {
    let [_, _, page_size, _] = pool.keys.dims();
    let scoring = Scoring {
        page_size,
        rule: best.rule,
        n_scores: best.n_pages_bound,
    };
    let top = TopPages {
        page_size,
        selection: best.selection,
        coming_pages: 0,
    };
    let scores = page_scores::launch(query.clone(), pool.digests, places.clone(), scoring);
    let ids = top_pages::launch(scores, places.lengths.clone(), top);
    let pages = PageList::Listed { ids };
    paged_attention::launch(query, pool.keys, pool.values, pages, places, None, scale)
}
