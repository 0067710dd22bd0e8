//! Page scores, selection and attention handed from cube to cube.

use cubecl::prelude::*;

use super::{
    super::{
        counters::{SCORED, announce_choice, is_last, reset, wait_for_choice},
        page_scores::{ScoreShape, next_pages, score_pages},
        selection::{Walk, choose_pages, list_all_pages},
    },
    listed::{
        Listing, Splitting, active_splits, attend_listed, list_row, merge_when_last, pages_of,
    },
    merge::Merge,
    softmax::softmax,
    split::{Shape, pages_per_split, place, publish},
};

/// How cubes score pages and choose among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    pub score: ScoreShape,
    pub walk: Walk,
    pub page_size: usize,
    pub pin_newest: bool,
    /// Pages that a cube scores.
    pub chunk: usize,
    /// Page lists of a KV head.
    pub lists: usize,
}

/// Scores one chunk of the pages of a KV head; the last of its cubes chooses.
///
/// True, in every unit, in the cube that has chosen.
#[cube]
fn score_and_choose<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    scores: &mut Tensor<f32>,
    pages: &mut Tensor<i32>,
    counters: &mut Tensor<Atomic<u32>>,
    sinks: usize,
    chunk: usize,
    sequence: usize,
    head: usize,
    #[comptime] choice: Choice,
) -> bool {
    let n_kv_heads = digests.shape(1);
    let row = sequence * n_kv_heads + head;
    let first = chunk * choice.chunk;
    let n_pool_pages = digests.shape(0);
    let mut pool_pages = next_pages(page_table, n_pool_pages, sequence, first, choice.score);
    let length = lengths[sequence] as usize;
    let n_pages = min(
        (length + choice.page_size - 1) / choice.page_size,
        min(page_table.shape(1), scores.shape(2)),
    );
    let mut chosen = false.runtime();
    if n_pages <= pages.shape(2) {
        if chunk == 0 {
            for list in 0..choice.lists {
                list_all_pages(pages, row * choice.lists + list, n_pages);
            }
        }
    } else if first < n_pages {
        let end = min(first + choice.chunk, n_pages);
        let mut page = first;
        while page < end {
            let next = page + comptime!(choice.score.pages());
            let following = next_pages(page_table, n_pool_pages, sequence, next, choice.score);
            score_pages::<F, N>(
                query,
                digests,
                &pool_pages,
                scores,
                sequence,
                head,
                page,
                end,
                choice.score,
            );
            #[unroll]
            for p in 0..choice.score.in_flight {
                pool_pages[p] = following[p];
            }
            page = next;
        }
        let n_chunks = (n_pages + choice.chunk - 1) / choice.chunk;
        if is_last(counters, row, n_chunks, SCORED) {
            for list in 0..choice.lists {
                choose_pages(
                    &*scores,
                    pages,
                    row * choice.lists + list,
                    n_pages,
                    sinks,
                    choice.pin_newest,
                    choice.walk,
                );
                sync_cube();
            }
            chosen = true;
        }
    }
    chosen
}

/// Page scores and selection. Cubes: chunks of pages, KV heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn choose_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    scores: &mut Tensor<f32>,
    pages: &mut Tensor<i32>,
    counters: &mut Tensor<Atomic<u32>>,
    sink_pages: u32,
    #[comptime] choice: Choice,
    #[define(F)] _dtype: ElemType,
) {
    let (sequence, head) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let chosen = score_and_choose::<F, N>(
        query,
        digests,
        page_table,
        lengths,
        scores,
        pages,
        counters,
        sink_pages as usize,
        CUBE_POS_X as usize,
        sequence,
        head,
        choice,
    );
    if chosen {
        reset(counters, sequence * digests.shape(1) + head, SCORED + 1);
    }
}

/// All of a decode step's attention in one launch. The first `n_scoring` cubes score and choose;
/// the others wait for the choice of their head and attend.
///
/// A cube waits only for cubes of a lower number: the device must start cubes in the order of
/// their numbers.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn best_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    scores: &mut Tensor<f32>,
    pages: &mut Tensor<i32>,
    partial: &mut Tensor<Vector<f32, N>>,
    stats: &mut Tensor<f32>,
    counters: &mut Tensor<Atomic<u32>>,
    output: &mut Tensor<Vector<F, N>>,
    scale: f32,
    sink_pages: u32,
    n_chunks: u32,
    n_scoring: u32,
    splitting: Splitting,
    #[comptime] choice: Choice,
    #[comptime] shape: Shape,
    #[comptime] merge: Merge,
    #[define(F)] _dtype: ElemType,
) {
    let n_kv_heads = digests.shape(1);
    if CUBE_POS_X < n_scoring {
        let row = (CUBE_POS_X / n_chunks) as usize;
        let chosen = score_and_choose::<F, N>(
            query,
            digests,
            page_table,
            lengths,
            scores,
            pages,
            counters,
            sink_pages as usize,
            (CUBE_POS_X % n_chunks) as usize,
            row / n_kv_heads,
            row % n_kv_heads,
            choice,
        );
        if chosen {
            announce_choice(counters, row);
        }
    } else {
        let n_splits = partial.shape(1);
        let rows = query.shape(1) / shape.heads;
        let cube = (CUBE_POS_X - n_scoring) as usize;
        let split = cube % n_splits;
        let row = cube / n_splits;
        let place = place(
            query,
            keys,
            page_table,
            lengths,
            row / rows,
            row % rows,
            shape.heads,
        );
        let all_pages = min(pages_of(&place, shape.page_size), scores.shape(2));
        let k = pages.shape(2);
        let listing = Listing {
            n_pages: min(all_pages, k),
            listed: all_pages > k,
            list: list_row(&place, &*pages) * k,
        };
        let per_split = pages_per_split(listing.n_pages, splitting.min_pages, splitting.max_splits);
        let n_active = active_splits(listing.n_pages, per_split);
        if split < n_active {
            let first = split * per_split;
            let end = min(first + per_split, listing.n_pages);
            let mut state = softmax::<F, N>(query, scale, &place, shape);
            if listing.listed {
                wait_for_choice(counters, place.sequence * n_kv_heads + place.kv_head);
            }
            attend_listed::<F, N>(
                &mut state, keys, values, &*pages, page_table, &listing, first, end, &place, shape,
            );
            publish::<N>(&mut state, partial, stats, split, &place, shape);
            merge_when_last::<F, N>(
                partial,
                stats,
                output,
                counters,
                n_active,
                &place,
                merge,
                shape.heads,
            );
        }
    }
}
