use burn::tensor::{Tensor, assert_shape};

#[cfg(feature = "cube")]
use super::Body;
use super::{HeadNorms, reference};
use crate::{
    cache::{LayerCache, Step},
    rope::Rotations,
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
    let [_, n_kv_heads, _, head_dim] = cache.pool.keys.dims();
    let [_, _, heads, _] = qkv.dims();
    assert_shape!(qkv, [step.batch(), step.max_new_tokens(), heads, head_dim]);
    assert!(
        heads > 2 * n_kv_heads,
        "heads of a merged projection: expected more than twice the {n_kv_heads} KV heads, found \
         {heads}"
    );
    super::check_groups(heads - 2 * n_kv_heads, n_kv_heads);
    #[cfg(feature = "cube")]
    if let Some(rotations) = rotations
        && Body::of_layer(cache, &qkv.device()) == Body::Kernels
        && crate::kernels::rotates(&cache.device(), cache.key_rows().storage(), norms.is_some())
    {
        return super::kernel::rotate_append(cache, qkv, norms, rotations, step);
    }
    reference::rotate_append(cache, qkv, norms, rotations, step)
}
