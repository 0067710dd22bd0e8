//! Attention of one query token over pages: split over the pages, merged by log-sum-exp.

mod launch;
mod listed;
mod matrix;
mod merge;
mod partition;
mod softmax;
mod split;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor, assert_shape},
};

pub(crate) use self::launch::launch_paged_attention;
use super::check::{check_attention, check_bound};
use crate::ops::extension::QuestOps;

/// Attention of one query token per sequence over the listed pages, or over all of them.
///
/// Split over the pages and merged by log-sum-exp. A sequence without a valid token gets zeros. A
/// list of all pages gives exactly what no list gives.
///
/// # Shapes
///
/// - query, output: `[batch, n_heads, head_dim]`
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`
/// - pages: `[batch, heads, k]` with `heads` the query heads or the KV heads; logical page
///   numbers, -1 for none
/// - page_table: `[batch, max_pages]`
/// - lengths: `[batch]`
///
/// Without a list, `n_pages_bound` is the most pages that a sequence has now or when a captured
/// step is replayed.
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn paged_attention(
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    pages: Option<Tensor<3, Int>>,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    scale: f32,
    n_pages_bound: usize,
) -> Tensor<3> {
    let [_, n_kv_heads, _, _] = keys.dims();
    let [batch, n_heads, _] = query.dims();
    let [_, max_pages] = page_table.dims();
    check_attention(&query, &keys, &values, &page_table, &lengths);
    let page_table = page_table.cast(DType::I32).into_dispatch();
    let lengths = lengths.cast(DType::I32).into_dispatch();
    let query = query.into_dispatch();
    let (keys, values) = (keys.into_dispatch(), values.into_dispatch());
    let output = match pages {
        Some(pages) => {
            let [_, heads, k] = pages.dims();
            assert_shape!(pages, [batch, heads, k]);
            assert!(
                heads == n_heads || heads == n_kv_heads,
                "page lists: expected one for each of {n_heads} query heads or {n_kv_heads} KV \
                 heads, found {heads}"
            );
            assert!(k > 0, "page lists: expected at least one page, found 0");
            let pages = pages.cast(DType::I32).into_dispatch();
            Dispatch::listed_attention(query, keys, values, pages, page_table, lengths, scale)
        }
        None => {
            check_bound(n_pages_bound, max_pages);
            Dispatch::dense_attention(
                query,
                keys,
                values,
                page_table,
                lengths,
                scale,
                n_pages_bound,
            )
        }
    };
    Tensor::from_dispatch(output)
}
