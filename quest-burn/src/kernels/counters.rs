//! How cubes of one launch hand each other their results.
//!
//! Counters belong to a KV head of a sequence. They are zero before and after every launch: the
//! cube that needs them last sets them back.

use cubecl::prelude::*;

/// Counters of a KV head.
pub(crate) const COUNTERS: usize = 3;
/// Cubes that have scored their pages.
pub(super) const SCORED: usize = 0;
/// 1 once the pages are chosen.
pub(super) const CHOSEN: usize = 1;
/// Cubes that have attended to their pages.
pub(super) const ATTENDED: usize = 2;

/// Counts this cube in. True, in every unit, for the last of `n_cubes`, which then sees what the
/// others have written.
#[cube]
pub(super) fn is_last(
    counters: &mut Tensor<Atomic<u32>>,
    kv_head: usize,
    n_cubes: usize,
    #[comptime] counter: usize,
) -> bool {
    let mut arrived = Shared::<u32>::new();
    sync_storage();
    if UNIT_POS == 0 {
        *arrived = counters[kv_head * COUNTERS + counter].fetch_add(1u32);
    }
    sync_cube();
    let last = *arrived as usize + 1 == n_cubes;
    if last {
        // Whatever else this cube's multiprocessor has cached is older than the others' writes.
        sync_storage();
    }
    last
}

/// Says that the pages of a KV head are chosen.
#[cube]
pub(super) fn announce_choice(counters: &mut Tensor<Atomic<u32>>, kv_head: usize) {
    sync_storage();
    if UNIT_POS == 0 {
        counters[kv_head * COUNTERS + CHOSEN].store(1u32);
    }
}

/// Waits until the pages of a KV head are chosen, by cubes that started before this one.
#[cube]
pub(super) fn wait_for_choice(counters: &mut Tensor<Atomic<u32>>, kv_head: usize) {
    if UNIT_POS == 0 {
        while counters[kv_head * COUNTERS + CHOSEN].load() == 0u32 {}
    }
    sync_storage();
}

/// Sets the first `n` counters of a KV head to zero, once nobody needs them anymore.
#[cube]
pub(super) fn reset(counters: &mut Tensor<Atomic<u32>>, kv_head: usize, #[comptime] n: usize) {
    if UNIT_POS == 0 {
        #[unroll]
        for counter in 0..n {
            counters[kv_head * COUNTERS + counter].store(0u32);
        }
    }
}
