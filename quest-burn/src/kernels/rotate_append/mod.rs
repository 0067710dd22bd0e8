//! A merged projection on its way to attention: normed, rotated and appended.

mod kernel;

use burn::{
    backend::Dispatch,
    tensor::{Device, Tensor},
};

pub(super) use self::kernel::launch;
use super::{
    bindings, check::check_rotate_append, device::binds, extension::QuestOps, int8::pack_apart,
    operands::Norms,
};
use crate::cache::{KvPool, KvStorage, Sequences};

/// Whether [`rotate_append`] runs on a device where the kernels do, with rows in this form: some bind few
/// buffers at a time.
pub fn rotates(device: &Device, rows: KvStorage, normed: bool) -> bool {
    binds(device, bindings::of_rotate_append(rows, normed, false))
}

/// Norms and rotates the queries and keys of a merged projection, appends as
/// [`append`](super::append()) does, and gives the queries, in one launch.
///
/// # Shapes
///
/// - qkv: `[batch, tokens, n_heads + 2 * n_kv_heads, head_dim]`
/// - norms: weights of the norms of query heads and key heads, `[2, head_dim]`, and their epsilon
/// - rotations: cosines, then sines, `[batch, tokens, head_dim]` in f32
/// - output: the pools and the queries, `[batch, n_heads, tokens, head_dim]`
///
/// # Panics
///
/// As [`append`](super::append()).
pub fn rotate_append(
    pool: KvPool,
    qkv: Tensor<4>,
    norms: Option<(Tensor<2>, f64)>,
    rotations: Tensor<3>,
    sequences: &Sequences,
) -> (KvPool, Tensor<4>) {
    check_rotate_append(&pool, (&qkv, norms.as_ref(), &rotations), sequences);
    let [_, tokens, _, _] = qkv.dims();
    let packs = binds(
        &pool.keys.device(),
        bindings::of_rotate_append(pool.keys.storage(), norms.is_some(), true),
    );
    let norms = match norms {
        Some((gammas, epsilon)) => Norms::Rms {
            gammas: gammas.into_dispatch(),
            epsilon: epsilon as f32,
        },
        None => Norms::None,
    };
    pack_apart(pool, !packs, sequences, tokens, |pool| {
        let (pool, query) = Dispatch::rotate_append(
            pool.into(),
            qkv.into_dispatch(),
            norms,
            rotations.into_dispatch(),
            sequences.into(),
        );
        (pool.into(), Tensor::from_dispatch(query))
    })
}
