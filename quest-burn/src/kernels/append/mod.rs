//! New rows of the KV cache, and the digests of their pages.

mod kernel;
mod store;

use burn::{backend::Dispatch, tensor::Tensor};

pub(super) use self::{
    kernel::{deviation, digest_vectors, launch, touched_pages, write_behind},
    store::{RowStore, scale_entries, scale_of_row, stored_widths},
};
use super::{bindings, check::check_append, device::binds, extension::QuestOps, int8::pack_apart};
use crate::cache::{KvPool, Sequences};

/// Writes rows `j < lengths[i] - starts[i]` of `new_keys[i]` and `new_values[i]` at positions
/// `starts[i] + j` of sequence `i`, and folds the keys into the digests of their pages: a page
/// that begins with one of them gets a new digest. Digests in 8 bits are packed from those, in the
/// same launch where the device binds as many buffers.
///
/// # Shapes
///
/// - new_keys (after RoPE), new_values: `[batch, n_kv_heads, tokens, head_dim]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or when a pool cannot be written in place because
/// another tensor shares its memory (with the `fusion` feature at the next synchronisation).
pub fn append(
    pool: KvPool,
    new_keys: Tensor<4>,
    new_values: Tensor<4>,
    sequences: &Sequences,
) -> KvPool {
    let [batch, _, tokens, _] = new_keys.dims();
    check_append(&pool, (&new_keys, &new_values), sequences);
    if batch == 0 || tokens == 0 {
        return pool;
    }
    let rows = pool.keys.storage();
    let packs = binds(&pool.keys.device(), bindings::of_append(rows, true));
    let (pool, ()) = pack_apart(pool, !packs, sequences, tokens, |pool| {
        let pool = Dispatch::append(
            pool.into(),
            new_keys.into_dispatch(),
            new_values.into_dispatch(),
            sequences.into(),
        );
        (pool.into(), ())
    });
    pool
}
