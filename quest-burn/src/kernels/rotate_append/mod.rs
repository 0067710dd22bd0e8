//! A merged projection on its way to attention: normed, rotated and appended.

mod kernel;

use burn::{
    backend::{Dispatch, DispatchTensor},
    tensor::{DType, Device, Int, Tensor},
};

use self::kernel::bindings;
pub(super) use self::kernel::int8_bindings;
pub(crate) use self::kernel::launch_rotate_append;
use super::{check::check_rotate_append, device::binds};
use crate::{digest::DigestKind, ops::extension::QuestOps};

/// Whether [`rotate_append`] runs on a device where the kernels do: some bind few buffers at a time.
pub fn rotates(device: &Device, normed: bool) -> bool {
    binds(device, bindings(normed))
}

/// Norms and rotates the queries and keys of a merged projection, appends as
/// [`append`](super::append()) does, and gives the queries, in one launch.
///
/// # Shapes
///
/// - keys, values, digests, page_table, starts, lengths: as in [`append`](super::append())
/// - qkv: `[batch, tokens, n_heads + 2 * n_kv_heads, head_dim]`
/// - gammas: weights of the norms of query heads and key heads, `[2, head_dim]`
/// - rotations: cosines, then sines, `[batch, tokens, head_dim]` in f32
/// - output: the pools and the queries, `[batch, n_heads, tokens, head_dim]`
///
/// # Panics
///
/// As [`append`](super::append()).
#[allow(clippy::type_complexity)]
pub fn rotate_append(
    (keys, values, digests): (Tensor<4>, Tensor<4>, Tensor<4>),
    digest: DigestKind,
    qkv: Tensor<4>,
    norms: Option<(Tensor<2>, f64)>,
    rotations: Tensor<3>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
) -> (Tensor<4>, Tensor<4>, Tensor<4>, Tensor<4>) {
    check_rotate_append(
        (&keys, &values, &digests),
        digest,
        (&qkv, norms.as_ref(), &rotations),
        (&page_table, &starts, &lengths),
    );
    let normed = norms.is_some();
    let (gammas, epsilon) = norm_arguments(norms, &qkv);
    let (keys, values, digests, query) = Dispatch::rotate_append(
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        digest,
        qkv.into_dispatch(),
        gammas,
        rotations.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        normed,
        epsilon,
    );
    (
        Tensor::from_dispatch(keys),
        Tensor::from_dispatch(values),
        Tensor::from_dispatch(digests),
        Tensor::from_dispatch(query),
    )
}

/// Weights of norms and their epsilon, and what stands in where there are none.
pub(super) fn norm_arguments(
    norms: Option<(Tensor<2>, f64)>,
    qkv: &Tensor<4>,
) -> (DispatchTensor, f32) {
    match norms {
        Some((gammas, epsilon)) => (gammas.into_dispatch(), epsilon as f32),
        // Not read.
        None => (qkv.clone().into_dispatch(), 0.0),
    }
}
