use burn::tensor::Tensor;
use quest_burn_linear::rms_norm;

use crate::{
    cache::{LayerCache, Step},
    ops::{self, HeadNorms},
    rope::Rotations,
};

/// Reference of [`crate::ops::rotate_append`].
pub fn rotate_append(
    cache: &mut LayerCache,
    qkv: Tensor<4>,
    norms: Option<&HeadNorms>,
    rotations: Option<&Rotations>,
    step: &Step,
) -> Tensor<4> {
    let heads = qkv.swap_dims(1, 2);
    let [_, n_kv_heads, _, _] = cache.pool.keys.dims();
    let [_, n, _, _] = heads.dims();
    let n_heads = n - 2 * n_kv_heads;
    let mut query = heads.clone().narrow(1, 0, n_heads);
    let mut keys = heads.clone().narrow(1, n_heads, n_kv_heads);
    let values = heads.narrow(1, n_heads + n_kv_heads, n_kv_heads);
    if let Some(norms) = norms {
        query = rms_norm(norms.query(), query);
        keys = rms_norm(norms.keys(), keys);
    }
    if let Some(rotations) = rotations {
        query = rotations.apply(query);
        keys = rotations.apply(keys);
    }
    ops::append(cache, keys, values, step);
    query
}
