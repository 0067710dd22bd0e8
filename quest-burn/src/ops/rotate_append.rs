use burn::tensor::{Tensor, assert_shape};

use crate::{
    attention::{HeadNorms, Rotations, rms_norm},
    cache::{LayerCache, Step},
};

/// Norms and rotates the queries and keys of a merged projection, appends keys and values as
/// [`append`](super::append) does, and gives the queries.
///
/// # Shapes
///
/// - qkv: `[batch, max_new_tokens, n_heads + 2 * n_kv_heads, head_dim]`: query heads, key heads and
///   value heads
/// - rotations: of the step's positions
/// - output: `[batch, n_heads, max_new_tokens, head_dim]`; rows past the tokens that a sequence
///   gains are undefined
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn rotate_append(
    cache: &mut LayerCache,
    qkv: Tensor<4>,
    norms: Option<&HeadNorms>,
    rotations: Option<&Rotations>,
    step: &Step,
) -> Tensor<4> {
    let [_, n_kv_heads, _, head_dim] = cache.keys.dims();
    let [_, _, heads, _] = qkv.dims();
    assert_shape!(qkv, [step.batch(), step.max_new_tokens(), heads, head_dim]);
    assert!(
        heads > 2 * n_kv_heads,
        "heads of a merged projection: expected more than twice the {n_kv_heads} KV heads, found \
         {heads}"
    );
    super::check_groups(heads - 2 * n_kv_heads, n_kv_heads);
    let heads = qkv.swap_dims(1, 2);
    separately(cache, heads, norms, rotations, step)
}

/// Queries, keys and values one after the other; `heads` is `[batch, heads, tokens, head_dim]`.
fn separately(
    cache: &mut LayerCache,
    heads: Tensor<4>,
    norms: Option<&HeadNorms>,
    rotations: Option<&Rotations>,
    step: &Step,
) -> Tensor<4> {
    let [_, n_kv_heads, _, _] = cache.keys.dims();
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
    super::append(cache, keys, values, step);
    query
}
