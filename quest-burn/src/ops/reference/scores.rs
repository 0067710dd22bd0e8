use burn::tensor::{DType, Tensor};

use super::{int8::dequantized_pages, pool::pages_of_all_heads};
use crate::{
    cache::{LayerCache, Step},
    pages::{GroupRule, PageScoring, PageSharing},
};

/// Reference of [`crate::ops::page_scores`].
pub fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    scoring: PageScoring,
) -> Tensor<3> {
    let [batch, n_heads, head_dim] = query.dims();
    let [_, n_kv_heads, _, _] = cache.pool.digests.rows.dims();
    let group = n_heads / n_kv_heads;
    let query = query
        .cast(DType::F32)
        .reshape([batch, n_kv_heads, group, head_dim]);
    let kind = cache.pool.digests.kind;
    let lists = scoring.lists(n_heads, n_kv_heads);
    let scores = (0..batch).map(|sequence| {
        let pages = step.pages(sequence);
        let query: Tensor<3> = query.clone().slice([sequence..sequence + 1]).squeeze_dim(0);
        if pages.is_empty() {
            let none = Tensor::empty([1, lists, 0], &query.device());
            return pad_pages(none, step.max_pages());
        }
        let digests = match &cache.pool.digests.int8 {
            Some(digests) => dequantized_pages(digests, pages),
            None => pages_of_all_heads(&cache.pool.digests.rows, pages)
                .cast(DType::F32)
                .swap_dims(0, 1),
        };
        let scores = kind.scores(query, digests, scoring.deviations);
        let scores = of_lists(scores, scoring).reshape([1, lists, pages.len()]);
        pad_pages(scores, step.max_pages())
    });
    Tensor::cat(scores.collect(), 0)
}

/// The scores of lists, `[n_kv_heads, group or 1, n_pages]`, from those of query heads
/// `[n_kv_heads, group, n_pages]`.
pub(super) fn of_lists(scores: Tensor<3>, scoring: PageScoring) -> Tensor<3> {
    match (scoring.sharing, scoring.group_rule) {
        (PageSharing::QueryHead, _) => scores,
        (PageSharing::KvHead, GroupRule::Max) => scores.max_dim(1),
        (PageSharing::KvHead, GroupRule::Mean) => scores.mean_dim(1),
    }
}

/// Fills up `[1, heads, n]` to `[1, heads, max_pages]`; what is past a sequence's pages is never
/// read.
pub(super) fn pad_pages(scores: Tensor<3>, max_pages: usize) -> Tensor<3> {
    let [_, heads, n] = scores.dims();
    if n == max_pages {
        return scores;
    }
    let padding = Tensor::full(
        [1, heads, max_pages - n],
        f32::MIN,
        (&scores.device(), DType::F32),
    );
    if n == 0 {
        return padding;
    }
    Tensor::cat(vec![scores, padding], 2)
}
