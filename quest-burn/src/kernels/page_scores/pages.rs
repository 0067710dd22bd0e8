//! Which pages a cube scores, and where their scores go.

use cubecl::prelude::*;

use super::{
    super::{
        args::PlacesArg,
        row::{lanes_scatter_sum, lanes_sum},
    },
    load::Sums,
    plan::ScoreShape,
};
use crate::{digest::KernelDigest, pages::GroupRule};

/// Pool pages of the pages that this unit's run scores next; those past the end of a sequence are
/// of no meaning, but they are in the pool.
///
/// Apart from the scoring, so that the page table is read while the length is on its way.
#[cube]
pub(super) fn next_pages(
    places: &PlacesArg,
    n_pool_pages: usize,
    sequence: usize,
    first: usize,
    #[comptime] shape: ScoreShape,
) -> Array<usize> {
    let max_pages = places.page_table.shape(1);
    let runs = comptime!(shape.units / shape.lanes);
    let run = UNIT_POS as usize / shape.lanes;
    let mut pool_pages = Array::<usize>::new(shape.in_flight);
    #[unroll]
    for p in 0..shape.in_flight {
        let page = min(first + p * runs + run, max_pages - 1);
        let pool_page = places.page_table[sequence * max_pages + page] as usize;
        pool_pages[p] = min(pool_page, n_pool_pages - 1);
    }
    pool_pages
}

/// Pages of a sequence that are scored.
#[cube]
pub(super) fn pages_of(
    places: &PlacesArg,
    n_scores: usize,
    sequence: usize,
    #[comptime] shape: ScoreShape,
) -> usize {
    let n_pages = (places.lengths[sequence] as usize + shape.page_size - 1) / shape.page_size;
    min(min(n_pages, places.page_table.shape(1)), n_scores)
}

/// What two query heads contribute to the score of their KV head.
#[cube]
pub(super) fn of_both(one: f32, other: f32, #[comptime] rule: GroupRule) -> f32 {
    if comptime!(rule == GroupRule::Max) {
        max(one, other)
    } else {
        one + other
    }
}

/// The score of a KV head from what all its query heads contribute.
#[cube]
pub(super) fn of_group(all: f32, #[comptime] group: usize, #[comptime] rule: GroupRule) -> f32 {
    if comptime!(rule == GroupRule::Max) {
        all
    } else {
        all * f32::new(comptime!(1.0 / group as f32))
    }
}

/// Writes the scores of `in_flight` pages from `first + run` on, `runs` apart, for a KV head of the batch
/// or its query heads, from the sums of each lane over its run.
#[cube]
pub(super) fn write_scores<D: KernelDigest>(
    sums: &mut Sums,
    scores: &mut Tensor<f32>,
    kv_head: usize,
    first: usize,
    n_pages: usize,
    #[comptime] shape: ScoreShape,
) {
    let ScoreShape {
        group,
        shared,
        rule,
        deviations,
        lanes,
        in_flight,
        together,
        ..
    } = comptime!(shape);
    let n_scores = scores.shape(2);
    let lane = UNIT_POS as usize % lanes;
    let run = UNIT_POS as usize / lanes;
    let runs = CUBE_DIM as usize / lanes;
    if comptime!(together > 0) {
        let n = comptime!(group * together);
        let spread = comptime!(lanes / n);
        // Page by page, then query head by query head along the run.
        let part = lane / spread;
        let rounds = comptime!(in_flight / together);
        #[unroll]
        for round in 0..rounds {
            let mut of_round = Array::<f32>::new(n);
            #[unroll]
            for i in 0..n {
                of_round[i] = sums.products[round * n + i];
            }
            let product = lanes_scatter_sum(&mut of_round, n, lanes);
            let mut bound = product;
            if comptime!(D::SQUARED) {
                #[unroll]
                for i in 0..n {
                    of_round[i] = sums.squares[round * n + i];
                }
                let square = lanes_scatter_sum(&mut of_round, n, lanes);
                bound = D::score(product, square, deviations);
            }
            let page = first + (round * together + part / group) * runs + run;
            if comptime!(shared) {
                let steps = comptime!(group.ilog2());
                #[unroll]
                for s in 0..steps {
                    let other = plane_shuffle_xor(bound, comptime!((spread as u32) << s));
                    bound = of_both(bound, other, rule);
                }
                bound = of_group(bound, group, rule);
                if lane % comptime!(spread * group) == 0 && page < n_pages {
                    scores[kv_head * n_scores + page] = bound;
                }
            } else if lane % spread == 0 && page < n_pages {
                let query_head = kv_head * group + part % group;
                scores[query_head * n_scores + page] = bound;
            }
        }
    } else {
        #[unroll]
        for p in 0..in_flight {
            let page = first + p * runs + run;
            let mut best = f32::new(0.0);
            #[unroll]
            for g in 0..group {
                let mut bound = lanes_sum(sums.products[p * group + g], lanes);
                if comptime!(D::SQUARED) {
                    bound = D::score(
                        bound,
                        lanes_sum(sums.squares[p * group + g], lanes),
                        deviations,
                    );
                }
                if comptime!(g == 0) {
                    best = bound;
                } else {
                    best = of_both(best, bound, rule);
                }
                if comptime!(!shared) && lane == 0 && page < n_pages {
                    let query_head = kv_head * group + g;
                    scores[query_head * n_scores + page] = bound;
                }
            }
            if comptime!(shared) && lane == 0 && page < n_pages {
                scores[kv_head * n_scores + page] = of_group(best, group, rule);
            }
        }
    }
}
