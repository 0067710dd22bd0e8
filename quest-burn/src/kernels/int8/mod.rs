//! Digests in 8 bits, as [`crate::cache::Int8Digests`] has them.

pub(super) mod pack;
mod quantize;

use burn::backend::Dispatch;

pub(super) use self::quantize::launch;
use super::{
    check::{check_digests, check_kernels, check_places},
    extension::QuestOps,
};
use crate::cache::{CHANNELS_PER_WORD, Digests, KvPool, Sequences};

/// Packs the digests of the pages that hold positions `starts[i]..lengths[i]` of sequence `i`, at
/// most `tokens` of them, where they are kept in 8 bits as well.
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or when words or scales cannot be written in place
/// because another tensor shares their memory (with the `fusion` feature at the next
/// synchronisation).
pub fn quantize_digests(
    digests: Digests,
    sequences: &Sequences,
    page_size: usize,
    tokens: usize,
) -> Digests {
    let Some(int8) = &digests.int8 else {
        return digests;
    };
    let [n_pages, n_kv_heads, _, _] = digests.rows.dims();
    let dtype = digests.rows.dtype();
    let [_, _, _, row] = int8.words.dims();
    let head_dim = row * CHANNELS_PER_WORD;
    let [batch, _] = sequences.page_table.dims();
    check_digests(&digests, [n_pages, n_kv_heads, head_dim], dtype);
    check_places(batch, sequences);
    check_kernels(
        &digests.rows.device(),
        dtype,
        [n_pages, n_kv_heads],
        head_dim,
    );
    assert!(page_size > 0, "page size: expected at least 1, found 0");
    if batch == 0 || tokens == 0 {
        return digests;
    }
    Dispatch::quantize_digests(digests.into(), sequences.into(), page_size, tokens).into()
}

/// Runs a launch that writes a pool, with the digests in 8 bits packed by a launch of their own where
/// they are to be packed `apart`: some devices bind too few buffers for one.
pub(super) fn pack_apart<R>(
    mut pool: KvPool,
    apart: bool,
    sequences: &Sequences,
    tokens: usize,
    write: impl FnOnce(KvPool) -> (KvPool, R),
) -> (KvPool, R) {
    let [_, _, page_size, _] = pool.keys.dims();
    let int8 = pool.digests.int8.take_if(|_| apart);
    let (mut pool, rest) = write(pool);
    if int8.is_some() {
        pool.digests.int8 = int8;
        pool.digests = quantize_digests(pool.digests, sequences, page_size, tokens);
    }
    (pool, rest)
}
