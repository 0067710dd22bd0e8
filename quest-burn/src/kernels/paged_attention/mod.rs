//! Attention of one query token over pages, or of a few: split over the pages, merged by log-sum-exp.

mod args;
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

pub(super) use self::launch::launch;
use super::{
    check::{check_attention, check_bound, check_groups},
    extension::QuestOps,
    operands::PageList,
};
use crate::cache::{KvRows, Sequences};

/// The pages that [`paged_attention`] reads.
#[allow(clippy::large_enum_variant, reason = "one is made per layer and step")]
#[derive(Clone, Debug)]
pub enum ReadPages {
    /// All of them.
    All {
        /// Most pages that a sequence has, now or when a captured step is replayed.
        bound: usize,
    },
    /// `[batch, heads, k]` with `heads` the query heads or the KV heads; logical page numbers, -1
    /// for none.
    Listed(Tensor<3, Int>),
}

/// Attention of one query token per sequence over the listed pages, or over all of them.
///
/// Split over the pages and merged by log-sum-exp. A sequence without a valid token gets zeros. A
/// list of all pages gives exactly what no list gives.
///
/// # Shapes
///
/// - query, output: `[batch, n_heads, head_dim]`
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`, whole or in 8 bits
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn paged_attention(
    query: Tensor<3>,
    keys: impl Into<KvRows>,
    values: impl Into<KvRows>,
    pages: ReadPages,
    sequences: &Sequences,
    scale: f32,
) -> Tensor<3> {
    let (keys, values) = (keys.into(), values.into());
    let [_, n_kv_heads, _, _] = keys.dims();
    let [batch, n_heads, _] = query.dims();
    check_attention(&query, &keys, &values, sequences);
    let pages = match pages {
        ReadPages::Listed(ids) => {
            let [_, heads, k] = ids.dims();
            assert_shape!(ids, [batch, heads, k]);
            assert!(
                heads == n_heads || heads == n_kv_heads,
                "page lists: expected one for each of {n_heads} query heads or {n_kv_heads} KV \
                 heads, found {heads}"
            );
            assert!(k > 0, "page lists: expected at least one page, found 0");
            let ids = ids.cast(DType::I32).into_dispatch();
            PageList::Listed { ids }
        }
        ReadPages::All { bound } => {
            let [_, max_pages] = sequences.page_table.dims();
            check_bound(bound, max_pages);
            PageList::All { bound }
        }
    };
    Tensor::from_dispatch(Dispatch::paged_attention(
        query.into_dispatch(),
        keys.into(),
        values.into(),
        pages,
        sequences.into(),
        None,
        scale,
    ))
}

/// Causal attention of the few query tokens that a step adds: token `i` of a sequence, at position `starts + i`,
/// sees the keys up to its own, which are in the cache already.
///
/// As [`paged_attention`] it is split over the pages, so that few tokens over a long context fill a device. A key
/// and a value are read once for several tokens, as if those were heads of a larger group.
///
/// Rows past the tokens that a sequence gains are zeros.
///
/// # Shapes
///
/// - query, output: `[batch, n_heads, tokens, head_dim]`
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`, whole or in 8 bits
/// - bound: most pages that a sequence has, now or when a captured step is replayed
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn few_token_attention(
    query: Tensor<4>,
    keys: impl Into<KvRows>,
    values: impl Into<KvRows>,
    bound: usize,
    sequences: &Sequences,
    scale: f32,
) -> Tensor<4> {
    let (keys, values) = (keys.into(), values.into());
    let [batch, n_heads, tokens, head_dim] = query.dims();
    let [_, n_kv_heads, _, _] = keys.dims();
    check_groups(n_heads, n_kv_heads);
    assert!(tokens > 0, "query tokens: expected at least 1, found 0");
    let [_, max_pages] = sequences.page_table.dims();
    let query = query.reshape([batch, n_heads * tokens, head_dim]);
    check_attention(&query, &keys, &values, sequences);
    assert_shape!(&sequences.starts, [batch]);
    check_bound(bound, max_pages);
    let output = Tensor::<3>::from_dispatch(Dispatch::paged_attention(
        query.into_dispatch(),
        keys.into(),
        values.into(),
        PageList::All { bound },
        sequences.into(),
        Some(tokens),
        scale,
    ));
    output.reshape([batch, n_heads, tokens, head_dim])
}
