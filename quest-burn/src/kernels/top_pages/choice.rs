//! The chosen pages of a head, in ascending order.

use cubecl::prelude::*;

use super::{
    super::row::cube_prefix_sum,
    candidates::{Candidates, Pages, Walk, candidates, page_at},
    keys::{load_keys, turn_to},
    threshold::{Threshold, find_threshold},
};

/// Chosen pages before this unit's, and pages with the threshold's key before them.
///
/// Of up to 65,536 pages, not all of which are chosen, both fit into 16 bits and are counted as one number; of
/// more, one after the other.
#[cube]
fn count_chosen<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
    candidates: &Candidates,
    threshold: &Threshold,
    plane_sums: &mut Shared<[u32]>,
    #[comptime] walk: Walk,
) -> (u32, u32) {
    let mut above = 0u32;
    let mut equal = 0u32;
    for chunk in 0..walk.chunks {
        turn_to::<N>(keys, scores, survivors, candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            above += select(key > threshold.key, 1u32, 0u32);
            equal += select(key == threshold.key, 1u32, 0u32);
        }
    }
    if comptime!(walk.packed_counts) {
        let counts = above | (equal << 16u32);
        let before = cube_prefix_sum(counts, plane_sums, walk.units, walk.plane);
        above = before & 0xFFFFu32;
        equal = before >> 16u32;
    } else {
        above = cube_prefix_sum(above, plane_sums, walk.units, walk.plane);
        equal = cube_prefix_sum(equal, plane_sums, walk.units, walk.plane);
    }
    (above, equal)
}

/// Writes the pages with the highest scores to `ids` from `list` on, ascending. There are more than are chosen.
/// Every unit of the cube must reach it.
#[cube]
pub(super) fn choose_pages<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
    ids: &mut Tensor<i32>,
    list: usize,
    pages: Pages,
    #[comptime] walk: Walk,
) {
    let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(walk.units / walk.plane));
    let candidates = candidates(pages, walk);
    let mut keys = Array::<u32>::new(walk.items);
    load_keys::<N>(&mut keys, scores, survivors, &candidates, 0usize, walk);
    let threshold = find_threshold::<N>(
        &mut keys,
        scores,
        survivors,
        &candidates,
        &mut plane_sums,
        walk,
    );
    let (mut above, mut equal) = count_chosen::<N>(
        &mut keys,
        scores,
        survivors,
        &candidates,
        &threshold,
        &mut plane_sums,
        walk,
    );
    for chunk in 0..walk.chunks {
        turn_to::<N>(&mut keys, scores, survivors, &candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            let is_above = key > threshold.key;
            let is_equal = key == threshold.key;
            if is_above || (is_equal && equal < threshold.ties) {
                let slot = above + min(equal, threshold.ties);
                let index = candidates.first + chunk * walk.items + i;
                ids[list + slot as usize] = page_at(survivors, &candidates, index, walk);
            }
            above += select(is_above, 1u32, 0u32);
            equal += select(is_equal, 1u32, 0u32);
        }
    }
}

/// Lists `n_pages` pages from `base` on, which are no more than the list's `entries`, then -1, or, where pages are
/// listed that are still to come, the pages that follow.
#[cube]
pub(super) fn list_all_pages(
    ids: &mut Tensor<i32>,
    list: usize,
    entries: usize,
    base: usize,
    n_pages: usize,
    coming: usize,
) {
    let mut slot = UNIT_POS as usize;
    while slot < entries {
        let is_listed = slot < n_pages || coming > 0;
        ids[list + slot] = select(is_listed, (base + slot) as i32, -1i32);
        slot += CUBE_DIM as usize;
    }
}

/// Lists the `coming` pages after a sequence's `n_pages` from `list` on.
#[cube]
pub(super) fn list_coming_pages(ids: &mut Tensor<i32>, list: usize, coming: usize, n_pages: usize) {
    let mut slot = UNIT_POS as usize;
    while slot < coming {
        ids[list + slot] = (n_pages + slot) as i32;
        slot += CUBE_DIM as usize;
    }
}
