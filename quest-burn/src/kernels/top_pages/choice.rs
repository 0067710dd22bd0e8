//! The chosen pages of a head, in ascending order.

use cubecl::prelude::*;

use super::{
    super::row::cube_prefix_sum,
    candidates::{Candidates, Walk, candidates},
    keys::{load_keys, turn_to},
    threshold::{Threshold, find_threshold},
};

/// Chosen pages before this unit's, and pages with the threshold's key before them; both fit into
/// 16 bits, as there are no more than 65,536 pages and not all are chosen.
#[cube]
fn count_chosen<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    threshold: &Threshold,
    plane_sums: &mut Shared<[u32]>,
    #[comptime] walk: Walk,
) -> (u32, u32) {
    let mut counts = 0u32;
    for chunk in 0..walk.chunks {
        turn_to::<N>(keys, scores, candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            counts += select(key > threshold.key, 1u32, 0u32);
            counts += select(key == threshold.key, 0x1_0000u32, 0u32);
        }
    }
    let before = cube_prefix_sum(counts, plane_sums, walk.units, walk.plane);
    (before & 0xFFFFu32, before >> 16u32)
}

/// Writes the `k` pages with the highest scores of a head to its row of `ids`, ascending. The
/// head has more than `k` pages. Every unit of the cube must reach it.
#[cube]
pub(super) fn choose_pages<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    ids: &mut Tensor<i32>,
    row: usize,
    n_pages: usize,
    sinks: usize,
    #[comptime] pin_newest: bool,
    #[comptime] walk: Walk,
) {
    let k = ids.shape(2);
    let list = row * k;
    let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(walk.units / walk.plane));
    let offset = row * scores.shape(2);
    let candidates = candidates(offset, n_pages, k, sinks, pin_newest, walk);
    let mut keys = Array::<u32>::new(walk.items);
    load_keys::<N>(&mut keys, scores, &candidates, 0usize, walk);
    let threshold = find_threshold::<N>(&mut keys, scores, &candidates, &mut plane_sums, walk);
    let (mut above, mut equal) = count_chosen::<N>(
        &mut keys,
        scores,
        &candidates,
        &threshold,
        &mut plane_sums,
        walk,
    );
    for chunk in 0..walk.chunks {
        turn_to::<N>(&mut keys, scores, &candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            let is_above = key > threshold.key;
            let is_equal = key == threshold.key;
            if is_above || (is_equal && equal < threshold.ties) {
                let slot = above + min(equal, threshold.ties);
                let page = candidates.first + chunk * walk.items + i;
                ids[list + slot as usize] = page as i32;
            }
            above += select(is_above, 1u32, 0u32);
            equal += select(is_equal, 1u32, 0u32);
        }
    }
}

/// Lists every page of a head that has no more than a list holds, then -1.
#[cube]
pub(super) fn list_all_pages(ids: &mut Tensor<i32>, row: usize, n_pages: usize) {
    let k = ids.shape(2);
    let mut slot = UNIT_POS as usize;
    while slot < k {
        ids[row * k + slot] = select(slot < n_pages, slot as i32, -1i32);
        slot += CUBE_DIM as usize;
    }
}
