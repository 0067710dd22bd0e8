//! What every launch needs.

use burn_cubecl::tensor::CubeTensor;

pub(super) use quest_burn_linear::kernels::launch::{
    address_type, assert_in_place, empty, multiprocessors,
};

/// Refuses pools of a cache that cannot be written in place.
pub(super) fn assert_pools_in_place(
    operation: &str,
    keys: &CubeTensor,
    values: &CubeTensor,
    digests: &CubeTensor,
) {
    assert_in_place(operation, "keys of the KV cache", keys);
    assert_in_place(operation, "values of the KV cache", values);
    assert_in_place(operation, "page digests", digests);
}
