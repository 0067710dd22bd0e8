//! The scores of a unit's pages as integers of the same order.

use cubecl::prelude::*;

use super::candidates::{Candidates, Walk, page_at};

/// The key of a page that is always kept: above all others.
pub(super) const KEPT: u32 = u32::MAX;

/// Maps the score of the candidate at `index` to an integer of the same order; 0 stands for no page.
///
/// By selects, not branches: into a branch the load of the score would sink, and each load would
/// wait for the one before it.
#[cube]
fn key_of(score: f32, page: i32, index: usize, candidates: &Candidates) -> u32 {
    let bits = u32::reinterpret(score);
    let ordered = select(
        (bits >> 31u32) == 1u32,
        bits ^ 0xFFFF_FFFFu32,
        bits | 0x8000_0000u32,
    );
    // -0 and +0 tie.
    let ordered = select(score == 0.0f32, 0x8000_0000u32, ordered);
    let key = min(max(ordered, 1u32), comptime!(KEPT - 1));
    let in_head = max(page, 0i32) as usize;
    let kept = in_head < candidates.pages.sinks || in_head >= candidates.pages.recent;
    select(
        index < candidates.end && page >= 0i32,
        select(kept, KEPT.runtime(), key),
        0u32,
    )
}

/// The score that a key stands for.
#[cube]
pub(super) fn score_of(key: u32) -> f32 {
    f32::reinterpret(select(
        (key >> 31u32) == 1u32,
        key & 0x7FFF_FFFFu32,
        key ^ 0xFFFF_FFFFu32,
    ))
}

/// Whether a page takes part in the choice.
#[cube]
pub(super) fn competes(key: u32) -> bool {
    key != 0u32 && key != KEPT
}

/// The scores from this unit's `i`-th page on, a load of them; those past the last page of a head
/// are of no meaning, but they are in the tensor.
#[cube]
fn load_scores<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    i: usize,
    #[comptime] walk: Walk,
) -> Vector<f32, N> {
    let page = candidates.pages.base + candidates.first + i;
    let page = min(page, scores.shape(2) - walk.width);
    scores[(candidates.pages.scores + page) / walk.width]
}

/// Reads the keys of this unit's pages from `first` on, a chunk of them.
#[cube]
pub(super) fn load_keys<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
    candidates: &Candidates,
    first: usize,
    #[comptime] walk: Walk,
) {
    let loads = comptime!(walk.items / walk.width);
    let mut pages = Array::<i32>::new(walk.items);
    #[unroll]
    for item in 0..walk.items {
        pages[item] = page_at(survivors, candidates, candidates.first + first + item, walk);
    }
    let mut loaded = Array::<Vector<f32, N>>::new(loads);
    #[unroll]
    for i in 0..loads {
        if comptime!(walk.second_stage) {
            loaded[i] = scores[candidates.pages.scores + max(pages[i], 0i32) as usize];
        } else {
            loaded[i] = load_scores::<N>(scores, candidates, first + i * walk.width, walk);
        }
    }
    #[unroll]
    for i in 0..loads {
        #[unroll]
        for lane in 0..walk.width {
            let item = i * walk.width + lane;
            keys[item] = key_of(
                loaded[i].extract(lane),
                pages[item],
                candidates.first + first + item,
                candidates,
            );
        }
    }
}

/// Has the keys of a chunk in registers, where they are if there is but one.
#[cube]
pub(super) fn turn_to<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
    candidates: &Candidates,
    chunk: usize,
    #[comptime] walk: Walk,
) {
    if comptime!(walk.chunks > 1) {
        load_keys::<N>(
            keys,
            scores,
            survivors,
            candidates,
            chunk * walk.items,
            walk,
        );
    }
}
