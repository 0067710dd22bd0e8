//! How cubes of one launch hand each other their results.
//!
//! Counters belong to a KV head of a sequence. They are zero before and after every launch: the
//! cube that needs them last sets them back.

use cubecl::prelude::*;

/// Counters of a KV head: cubes that have attended to their pages.
pub(crate) const COUNTERS: usize = 1;

/// Counts this cube in. True, in every unit, for the last of `n_cubes`, which then sees what the
/// others have written.
#[cube]
pub(super) fn is_last(counters: &mut Tensor<Atomic<u32>>, kv_head: usize, n_cubes: usize) -> bool {
    let mut arrived = Shared::<u32>::new();
    sync_storage();
    if UNIT_POS == 0 {
        *arrived = counters[kv_head * COUNTERS].fetch_add(1u32);
    }
    sync_cube();
    let last = *arrived as usize + 1 == n_cubes;
    if last {
        // Whatever else this cube's multiprocessor has cached is older than the others' writes.
        sync_storage();
    }
    last
}

/// Sets the counter of a KV head to zero, once nobody needs it anymore.
#[cube]
pub(super) fn reset(counters: &mut Tensor<Atomic<u32>>, kv_head: usize) {
    if UNIT_POS == 0 {
        counters[kv_head * COUNTERS].store(0u32);
    }
}
