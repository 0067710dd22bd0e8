//! What the operations refuse before anything is launched: shapes, dtypes and numbers that do not fit
//! together.

use burn::tensor::{DType, Device, Tensor, assert_shape};

pub(super) use quest_burn_linear::kernels::check::check_dtype;

use super::{bindings::takes_rows, device::supports};
use crate::{
    cache::{
        CHANNELS_PER_WORD, Digests, Int8Digests, Int8Rows, KvPool, KvRows, Sequences, stored_scales,
    },
    pages::PageSelection,
};

pub(super) fn check_append(
    pool: &KvPool,
    (new_keys, new_values): (&Tensor<4>, &Tensor<4>),
    sequences: &Sequences,
) {
    let [_, n_kv_heads, _, head_dim] = pool.keys.dims();
    let [batch, _, tokens, _] = new_keys.dims();
    check_written(pool, batch, sequences);
    assert_shape!(new_keys, [batch, n_kv_heads, tokens, head_dim]);
    assert_shape!(new_values, [batch, n_kv_heads, tokens, head_dim]);
    check_dtype("new keys", new_keys.dtype(), pool.dtype());
    check_dtype("new values", new_values.dtype(), pool.dtype());
}

pub(super) fn check_rotate_append(
    pool: &KvPool,
    (qkv, norms, rotations): (&Tensor<4>, Option<&(Tensor<2>, f64)>, &Tensor<3>),
    sequences: &Sequences,
) {
    let [_, n_kv_heads, _, head_dim] = pool.keys.dims();
    let [batch, tokens, heads, _] = qkv.dims();
    check_written(pool, batch, sequences);
    assert_shape!(qkv, [batch, tokens, heads, head_dim]);
    assert_shape!(rotations, [batch, tokens, head_dim]);
    check_dtype("merged projection", qkv.dtype(), pool.dtype());
    check_dtype("rotations", rotations.dtype(), DType::F32);
    assert!(
        batch > 0 && tokens > 0 && head_dim.is_multiple_of(2),
        "merged projection: expected tokens and an even head dim, found {:?}",
        qkv.dims()
    );
    assert!(
        heads > 2 * n_kv_heads,
        "heads of a merged projection: expected more than twice the {n_kv_heads} KV heads, found \
         {heads}"
    );
    if let Some((gammas, _)) = norms {
        assert_shape!(gammas, [2, head_dim]);
        check_dtype("weights of norms", gammas.dtype(), pool.dtype());
    }
}

/// A pool that is written, and where.
fn check_written(pool: &KvPool, batch: usize, sequences: &Sequences) {
    let [n_pages, n_kv_heads, page_size, head_dim] = pool.keys.dims();
    let dtype = pool.dtype();
    let shape = [n_pages, n_kv_heads, page_size, head_dim];
    check_rows("keys", &pool.keys, shape, dtype);
    check_rows("values", &pool.values, shape, dtype);
    assert_eq!(
        pool.keys.storage(),
        pool.values.storage(),
        "storage of keys and values"
    );
    check_digests(&pool.digests, [n_pages, n_kv_heads, head_dim], dtype);
    check_places(batch, sequences);
    check_kernels(&pool.keys.device(), dtype, [n_pages, n_kv_heads], head_dim);
    check_buffers(&pool.keys);
}

/// Keys or values of a cache in such a dtype.
fn check_rows(what: &str, rows: &KvRows, shape: [usize; 4], dtype: DType) {
    let [n_pages, n_kv_heads, page_size, head_dim] = shape;
    match rows {
        KvRows::Full(rows) => {
            assert_shape!(rows, [n_pages, n_kv_heads, page_size, head_dim]);
            check_dtype(what, rows.dtype(), dtype);
        }
        KvRows::Int8(Int8Rows { words, scales }) => {
            assert!(
                head_dim.is_multiple_of(16),
                "{what} in 8 bits: expected a head dim that is a multiple of 16, found {head_dim}"
            );
            let row = head_dim / CHANNELS_PER_WORD;
            assert_shape!(words, [n_pages, n_kv_heads, page_size, row]);
            assert_shape!(scales, [n_pages, n_kv_heads, page_size, 1]);
            check_dtype(what, words.dtype(), DType::I32);
            check_dtype(what, scales.dtype(), DType::F32);
        }
    }
}

/// Keys and values that queries of such a dtype read.
pub(super) fn check_read(keys: &KvRows, values: &KvRows, dtype: DType) {
    let [n_pages, n_kv_heads, page_size, head_dim] = keys.dims();
    let shape = [n_pages, n_kv_heads, page_size, head_dim];
    check_rows("keys", keys, shape, dtype);
    check_rows("values", values, shape, dtype);
    assert_eq!(
        keys.storage(),
        values.storage(),
        "storage of keys and values"
    );
    check_kernels(&keys.device(), dtype, [n_pages, n_kv_heads], head_dim);
}

/// Where the tokens of a batch go.
pub(super) fn check_places(batch: usize, sequences: &Sequences) {
    let [_, max_pages] = sequences.page_table.dims();
    assert_shape!(sequences.page_table, [batch, max_pages]);
    assert_shape!(sequences.starts, [batch]);
    assert_shape!(sequences.lengths, [batch]);
}

/// Digests of a pool with so many pages, KV heads and channels, in such a dtype.
pub(super) fn check_digests(
    digests: &Digests,
    [n_pages, n_kv_heads, head_dim]: [usize; 3],
    dtype: DType,
) {
    let [rows, channels] = digests.kind.shape(head_dim);
    assert_shape!(digests.rows, [n_pages, n_kv_heads, rows, channels]);
    check_dtype("digests", digests.rows.dtype(), dtype);
    let Some(Int8Digests { words, scales }) = &digests.int8 else {
        return;
    };
    assert!(
        head_dim.is_multiple_of(16),
        "int8 digests: expected a head dim that is a multiple of 16, found {head_dim}"
    );
    let row = head_dim / CHANNELS_PER_WORD;
    let n = stored_scales(digests.kind, head_dim);
    assert_shape!(words, [n_kv_heads, n_pages, rows, row]);
    assert_shape!(scales, [n_kv_heads, n_pages, n]);
    check_dtype("words of int8 digests", words.dtype(), DType::I32);
    check_dtype("scales of int8 digests", scales.dtype(), DType::F32);
}

pub(super) fn check_scoring(page_size: usize, n_scores: usize) {
    assert!(page_size > 0, "page size: expected at least 1, found 0");
    check_scores(n_scores);
}

pub(super) fn check_scores(n_scores: usize) {
    assert!(
        n_scores > 0,
        "number of page scores: expected at least 1, found 0"
    );
}

/// A selection whose lists name pages that are still to come.
pub(super) fn check_selection(selection: &PageSelection, coming_pages: usize) {
    let PageSelection {
        k,
        sink_pages,
        recent_pages,
    } = *selection;
    assert!(k > 0, "pages to keep: expected at least 1, found 0");
    assert!(
        coming_pages < k,
        "pages to come: expected fewer than the {k} pages to keep, found {coming_pages}"
    );
    let kept = sink_pages
        .saturating_add(recent_pages)
        .saturating_add(coming_pages);
    assert!(
        kept <= k,
        "always-kept pages: expected at most the {k} pages to keep, found {kept}"
    );
}

pub(super) fn check_bound(n_pages_bound: usize, max_pages: usize) {
    assert!(
        n_pages_bound <= max_pages,
        "pages of a sequence: expected at most the page table's {max_pages}, found {n_pages_bound}"
    );
}

pub(super) fn check_attention(
    query: &Tensor<3>,
    keys: &KvRows,
    values: &KvRows,
    sequences: &Sequences,
) {
    let [_, n_kv_heads, _, head_dim] = keys.dims();
    let [batch, n_heads, _] = query.dims();
    assert_shape!(query, [batch, n_heads, head_dim]);
    check_sequences(batch, sequences);
    check_read(keys, values, query.dtype());
    check_buffers(keys);
    check_groups(n_heads, n_kv_heads);
}

/// Where the sequences of a batch are, with a row of the page table for each, or for each of their KV heads.
pub(super) fn check_page_lists(batch: usize, n_kv_heads: usize, sequences: &Sequences) {
    let [rows, max_pages] = sequences.page_table.dims();
    assert!(
        batch > 0 && max_pages > 0,
        "page table: expected sequences and columns, found {batch} sequences and {max_pages} columns"
    );
    assert!(
        rows == batch || rows == batch * n_kv_heads,
        "rows of the page table: expected one for each of {batch} sequences, or of their {n_kv_heads} KV \
         heads, found {rows}"
    );
    assert_shape!(sequences.lengths, [batch]);
}

/// Where the sequences of a batch are. A grid without cubes is no launch, and kernels read the last
/// column of the page table for pages that a sequence does not have.
pub(super) fn check_sequences(batch: usize, sequences: &Sequences) {
    let [_, max_pages] = sequences.page_table.dims();
    assert!(batch > 0, "sequences: expected at least 1, found 0");
    assert!(
        max_pages > 0,
        "columns of the page table: expected at least 1, found 0"
    );
    assert_shape!(sequences.page_table, [batch, max_pages]);
    assert_shape!(sequences.lengths, [batch]);
}

pub(super) fn check_groups(n_heads: usize, n_kv_heads: usize) {
    assert!(
        n_heads > 0 && n_heads.is_multiple_of(n_kv_heads),
        "query heads: expected a multiple of the {n_kv_heads} KV heads, found {n_heads}"
    );
}

/// Keys or values whose form takes no more buffers than the device binds at a time.
fn check_buffers(rows: &KvRows) {
    let (device, storage) = (rows.device(), rows.storage());
    assert!(
        takes_rows(&device, storage),
        "KV cache: expected a form of keys and values for which {device:?} binds enough buffers, found \
         {storage}"
    );
}

/// A pool that the kernels run on with keys of `head_dim` channels.
pub(super) fn check_kernels(
    device: &Device,
    dtype: DType,
    [n_pages, n_kv_heads]: [usize; 2],
    head_dim: usize,
) {
    assert!(
        n_pages > 0 && n_kv_heads > 0,
        "KV cache: expected pages and heads, found {n_pages} pages of {n_kv_heads} KV heads"
    );
    assert!(
        supports(device, dtype, head_dim),
        "KV cache: expected a dtype and a head dim that the kernels run on {device:?}, found {dtype:?} and \
         {head_dim}"
    );
}
