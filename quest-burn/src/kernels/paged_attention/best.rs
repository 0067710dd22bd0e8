use cubecl::prelude::*;

use super::{
    super::selection::{Walk, candidates, count_chosen, find_threshold, load_keys, nth_key},
    merge::{Merge, merge_splits},
    softmax::{attend, softmax},
    split::{
        Place, Shape, Slots, pages_per_split, place, publish, publish_nothing, slots, stage_page,
    },
};

/// What a launch of the kernels below is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Best {
    pub shape: Shape,
    pub walk: Walk,
    pub pin_newest: bool,
}

/// How the pages of a head are chosen and split.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Choice {
    pub k: u32,
    pub sink_pages: u32,
    pub min_pages: u32,
    pub max_splits: u32,
}

/// Pages of the sequence that have a score.
#[cube]
fn scored_pages(scores: &Tensor<f32>, place: &Place, #[comptime] page_size: usize) -> usize {
    let n_pages = (place.length + page_size - 1) / page_size;
    min(min(n_pages, place.max_pages), scores.shape(2))
}

/// Chooses the pages with the highest scores, every cube of a head anew, and stages those from
/// `first` to `end` in the ascending list of them.
#[cube]
fn stage_best(
    slots: &mut Slots,
    scores: &Tensor<f32>,
    page_table: &Tensor<i32>,
    place: &Place,
    n_pages: usize,
    first: usize,
    end: usize,
    k: usize,
    sinks: usize,
    #[comptime] best: Best,
) {
    let page_size = comptime!(best.shape.page_size);
    let walk = comptime!(best.walk);
    if n_pages <= k {
        let slot = UNIT_POS as usize;
        if first + slot < end {
            stage_page(
                slots,
                slot,
                first + slot,
                true.runtime(),
                page_table,
                place,
                page_size,
            );
        }
    } else {
        let list_heads = scores.shape(1);
        let head = place.query_head * list_heads / place.n_heads;
        let offset = (place.sequence * list_heads + head) * scores.shape(2);
        let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(walk.units / walk.plane));
        let candidates = candidates(offset, n_pages, k, sinks, best.pin_newest, walk.units);
        let keys = load_keys(scores, &candidates, walk);
        let threshold = find_threshold(&keys, scores, &candidates, &mut plane_sums, walk);
        let (mut above, mut equal) = count_chosen(
            &keys,
            scores,
            &candidates,
            &threshold,
            &mut plane_sums,
            walk,
        );
        #[unroll(walk.cached)]
        for i in 0..walk.items {
            let key = nth_key(&keys, scores, &candidates, i, walk);
            let is_above = key > threshold.key;
            let is_equal = key == threshold.key;
            if is_above || (is_equal && equal < threshold.ties) {
                let slot = (above + min(equal, threshold.ties)) as usize;
                if slot >= first && slot < end {
                    let page = candidates.first + i;
                    let valid = true.runtime();
                    stage_page(
                        slots,
                        slot - first,
                        page,
                        valid,
                        page_table,
                        place,
                        page_size,
                    );
                }
            }
            above += select(is_above, 1u32, 0u32);
            equal += select(is_equal, 1u32, 0u32);
        }
    }
    sync_cube();
}

/// Attention of one split over the pages with the highest scores.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn best_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    scores: &Tensor<f32>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    partial: &mut Tensor<f32>,
    scale: f32,
    choice: Choice,
    #[comptime] best: Best,
    #[define(F)] _dtype: ElemType,
) {
    let shape = comptime!(best.shape);
    let place = place(query, keys, page_table, lengths, shape.heads);
    let split = CUBE_POS_X as usize;
    let n_pages = scored_pages(scores, &place, shape.page_size);
    let n_best = min(n_pages, choice.k as usize);
    let per_split = pages_per_split(n_best, choice.min_pages, choice.max_splits);
    let first = split * per_split;
    if first >= n_best {
        publish_nothing(partial, split, &place, shape);
        terminate!();
    }
    let end = min(first + per_split, n_best);
    let mut slots = slots(shape.units);
    let (k, sinks) = (choice.k as usize, choice.sink_pages as usize);
    stage_best(
        &mut slots, scores, page_table, &place, n_pages, first, end, k, sinks, best,
    );
    let mut state = softmax::<F, N>(query, scale, &place, shape);
    attend::<F, N>(&mut state, keys, values, &slots, end - first, &place, shape);
    publish::<N>(&mut state, partial, split, &place, shape);
}

/// As `best_kernel`; the last cube of a head merges its splits.
///
/// `arrivals` holds a zero for each sequence and cube row of query heads.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn best_merged_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    scores: &Tensor<f32>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    partial: &mut Tensor<f32>,
    arrivals: &mut Tensor<Atomic<u32>>,
    output: &mut Tensor<F>,
    scale: f32,
    choice: Choice,
    #[comptime] best: Best,
    #[comptime] merge: Merge,
    #[define(F)] _dtype: ElemType,
) {
    let shape = comptime!(best.shape);
    let place = place(query, keys, page_table, lengths, shape.heads);
    let split = CUBE_POS_X as usize;
    let n_pages = scored_pages(scores, &place, shape.page_size);
    let n_best = min(n_pages, choice.k as usize);
    let per_split = pages_per_split(n_best, choice.min_pages, choice.max_splits);
    let first = split * per_split;
    // The first split of an empty sequence stays, to write zeros.
    let n_active = max((n_best + per_split - 1) / per_split, 1usize);
    if split >= n_active {
        terminate!();
    }
    if first < n_best {
        let end = min(first + per_split, n_best);
        let mut slots = slots(shape.units);
        let (k, sinks) = (choice.k as usize, choice.sink_pages as usize);
        stage_best(
            &mut slots, scores, page_table, &place, n_pages, first, end, k, sinks, best,
        );
        let mut state = softmax::<F, N>(query, scale, &place, shape);
        attend::<F, N>(&mut state, keys, values, &slots, end - first, &place, shape);
        publish::<N>(&mut state, partial, split, &place, shape);
    } else {
        publish_nothing(partial, split, &place, shape);
    }

    let mut arrived = Shared::<u32>::new();
    sync_storage();
    if UNIT_POS == 0 {
        let row = place.sequence * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize;
        *arrived = arrivals[row].fetch_add(1u32);
    }
    sync_storage();
    if *arrived as usize + 1 == n_active {
        let head = place.sequence * place.n_heads + place.query_head;
        merge_splits::<F>(partial, output, head, n_active, merge);
    }
}
