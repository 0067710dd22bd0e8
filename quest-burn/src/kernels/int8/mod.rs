//! Digests in 8 bits, as [`crate::cache::Int8Digests`] has them.

mod append;
pub(super) mod pack;
mod quantize;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor, assert_shape},
};

pub use self::append::{int8_append, int8_appends, int8_rotate_append, int8_rotates};
pub(crate) use self::{pack::PackedPools, quantize::launch_quantize_digests};
use super::{
    best_attention::BestPages,
    check::{
        check_attention, check_bound, check_digests, check_dtype, check_groups, check_pool,
        check_scores, check_scoring, check_selection, check_sequences,
    },
    device::supports,
};
use crate::{
    PageSharing,
    cache::{CHANNELS_PER_WORD, stored_scales},
    digest::DigestKind,
    ops::int8_extension::Int8Ops,
};

/// Packs the digests of the pages that hold positions `starts[i]..lengths[i]` of sequence `i`, at
/// most `tokens` of them, anew.
///
/// # Shapes
///
/// - words: `[n_kv_heads, n_pages, rows, head_dim / 4]` in i32
/// - scales: `[n_kv_heads, n_pages, n_scales]` in f32
/// - digests: `[n_pages, n_kv_heads, rows, channels]`
/// - page_table: `[batch, max_pages]`
/// - starts, lengths: `[batch]`
/// - output: words and scales
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or when words or scales cannot be written in place
/// because another tensor shares their memory (with the `fusion` feature at the next
/// synchronisation).
pub fn quantize_digests(
    words: Tensor<4, Int>,
    scales: Tensor<3>,
    digests: Tensor<4>,
    digest: DigestKind,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
    page_size: usize,
    tokens: usize,
) -> (Tensor<4, Int>, Tensor<3>) {
    let [n_pages, n_kv_heads, _, _] = digests.dims();
    let [_, _, _, row] = words.dims();
    let head_dim = row * CHANNELS_PER_WORD;
    let [batch, max_pages] = page_table.dims();
    check_digests(&digests, digest, [n_pages, n_kv_heads, head_dim]);
    check_packed(&words, &scales, digest, [n_pages, n_kv_heads, head_dim]);
    assert_shape!(page_table, [batch, max_pages]);
    assert_shape!(starts, [batch]);
    assert_shape!(lengths, [batch]);
    check_pool(&digests, head_dim);
    assert!(page_size > 0, "page size: expected at least 1, found 0");
    if batch == 0 || tokens == 0 {
        return (words, scales);
    }
    let (words, scales) = Dispatch::quantize_digests(
        words.into_dispatch(),
        scales.into_dispatch(),
        digests.into_dispatch(),
        digest,
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        page_size,
        tokens,
    );
    (Tensor::from_dispatch(words), Tensor::from_dispatch(scales))
}

/// [`page_scores`](super::page_scores()) by packed digests.
///
/// # Shapes
///
/// - words, scales: as in [`quantize_digests`]; the rest as in `page_scores`
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn int8_page_scores(
    query: Tensor<3>,
    words: Tensor<4, Int>,
    scales: Tensor<3>,
    digest: DigestKind,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    page_size: usize,
    sharing: PageSharing,
    n_scores: usize,
) -> Tensor<3> {
    let [n_kv_heads, n_pages, _, _] = words.dims();
    let [batch, n_heads, head_dim] = query.dims();
    check_packed(&words, &scales, digest, [n_pages, n_kv_heads, head_dim]);
    check_sequences(batch, &page_table, &lengths);
    check_groups(n_heads, n_kv_heads);
    assert!(
        supports(&query.device(), query.dtype(), head_dim) && n_pages > 0,
        "query: expected a dtype and a head dim that the kernels run on {:?}, found {:?} and \
         {head_dim}",
        query.device(),
        query.dtype()
    );
    check_scoring(page_size, n_scores);
    Tensor::from_dispatch(Dispatch::int8_page_scores(
        query.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        digest,
        page_table.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        page_size,
        sharing == PageSharing::KvHead,
        n_scores,
    ))
}

/// [`best_attention`](super::best_attention()) by packed digests.
///
/// # Shapes
///
/// - words, scales: as in [`quantize_digests`]; the rest as in `best_attention`
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn int8_best_attention(
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    words: Tensor<4, Int>,
    scales: Tensor<3>,
    digest: DigestKind,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    scale: f32,
    pages: BestPages,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, head_dim] = keys.dims();
    let [_, max_pages] = page_table.dims();
    check_packed(&words, &scales, digest, [n_pages, n_kv_heads, head_dim]);
    check_attention(&query, &keys, &values, &page_table, &lengths);
    check_selection(pages.k, pages.sink_pages, pages.recent_pages);
    check_bound(pages.n_pages_bound, max_pages);
    check_scores(pages.n_pages_bound);
    Tensor::from_dispatch(Dispatch::int8_best_attention(
        query.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        digest,
        page_table.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        scale,
        pages,
    ))
}

fn check_packed(
    words: &Tensor<4, Int>,
    scales: &Tensor<3>,
    digest: DigestKind,
    [n_pages, n_kv_heads, head_dim]: [usize; 3],
) {
    assert!(
        head_dim.is_multiple_of(16),
        "int8 digests: expected a head dim that is a multiple of 16, found {head_dim}"
    );
    let [rows, _] = digest.shape(head_dim);
    let (row, n) = (
        head_dim / CHANNELS_PER_WORD,
        stored_scales(digest, head_dim),
    );
    assert_shape!(words, [n_kv_heads, n_pages, rows, row]);
    assert_shape!(scales, [n_kv_heads, n_pages, n]);
    check_dtype("words of int8 digests", words.dtype(), DType::I32);
    check_dtype("scales of int8 digests", scales.dtype(), DType::F32);
}
