//! New rows of the KV cache, and the digests of their pages.

mod kernel;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor},
};

pub(crate) use self::kernel::launch_append;
pub(super) use self::kernel::{
    INT8_BINDINGS, deviation, digest_vectors, touched_pages, write_behind,
};
use super::check::check_append;
use crate::{digest::DigestKind, ops::extension::QuestOps};

/// Writes rows `j < lengths[i] - starts[i]` of `new_keys[i]` and `new_values[i]` at positions
/// `starts[i] + j` of sequence `i`, and folds the keys into the digests of their pages: a page
/// that begins with one of them gets a new digest.
///
/// # Shapes
///
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`
/// - digests: `[n_pages, n_kv_heads, rows, channels]` as the kind says
/// - new_keys (after RoPE), new_values: `[batch, n_kv_heads, tokens, head_dim]`
/// - page_table: `[batch, max_pages]`
/// - starts, lengths: `[batch]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or when a pool cannot be written in place because
/// another tensor shares its memory (with the `fusion` feature at the next synchronisation).
pub fn append(
    keys: Tensor<4>,
    values: Tensor<4>,
    digests: Tensor<4>,
    digest: DigestKind,
    new_keys: Tensor<4>,
    new_values: Tensor<4>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let [batch, _, tokens, _] = new_keys.dims();
    check_append(
        (&keys, &values, &digests),
        digest,
        (&new_keys, &new_values),
        (&page_table, &starts, &lengths),
    );
    if batch == 0 || tokens == 0 {
        return (keys, values, digests);
    }
    let (keys, values, digests) = Dispatch::append(
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        digest,
        new_keys.into_dispatch(),
        new_values.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
    );
    (
        Tensor::from_dispatch(keys),
        Tensor::from_dispatch(values),
        Tensor::from_dispatch(digests),
    )
}
