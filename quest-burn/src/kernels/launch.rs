//! What every launch needs.

use burn_cubecl::CubeBackend;
pub(super) use quest_burn_linear::kernels::launch::{
    address_type, assert_in_place, empty, multiprocessors,
};

use quest_burn_linear::kernels::launch;

use super::operands::Pool;
use crate::cache::{Int8Digests, KvPool};

/// Refuses a pool of a cache that cannot be written in place.
pub(super) fn assert_pool_in_place(operation: &str, pool: &Pool<CubeBackend>) {
    assert_in_place(operation, "keys of the KV cache", &pool.keys);
    assert_in_place(operation, "values of the KV cache", &pool.values);
    assert_in_place(operation, "page digests", pool.digests.rows());
}

/// The same for a pool that is still in its place, so that a refusal leaves it there.
pub(crate) fn check_held_alone(operation: &str, pool: &KvPool) {
    launch::check_held_alone(operation, "keys of the KV cache", pool.keys.full());
    launch::check_held_alone(operation, "values of the KV cache", pool.values.full());
    launch::check_held_alone(operation, "page digests", &pool.digests.rows);
    if let Some(Int8Digests { words, scales }) = &pool.digests.int8 {
        launch::check_held_alone(operation, "words of int8 digests", words);
        launch::check_held_alone(operation, "scales of int8 digests", scales);
    }
}
