//! Bounds of the attention scores of each page, by digests in one of two forms: a file for each
//! loads and sums, the rest is here.

mod full;
mod int8;
mod int8_matrix;

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

pub(crate) use self::{full::page_scores, int8::int8_page_scores};
use super::{
    launch::{empty, multiprocessors},
    row::{RowLayout, lanes_scatter_sum, lanes_sum},
};

/// Units of a cube.
const UNITS: usize = 128;
/// Digests that a run of lanes has in flight.
const PAGES_IN_FLIGHT: usize = 4;

/// How a cube scores pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ScoreShape {
    /// Query heads of a KV head, and whether they share their pages.
    group: usize,
    shared: bool,
    /// Units that share a row, and the vectors of each.
    lanes: usize,
    vectors: usize,
    /// Channels of a vector.
    width: usize,
    /// Digests that a run of lanes has in flight.
    in_flight: usize,
    units: usize,
    page_size: usize,
    /// Pages whose sums one reduction makes; none where each sum is reduced by itself.
    together: usize,
}

impl ScoreShape {
    /// The shape for cubes of `units`; each run of lanes has at most `in_flight` digests in
    /// flight.
    fn new(
        layout: &RowLayout,
        group: usize,
        shared: bool,
        page_size: usize,
        units: usize,
        in_flight: usize,
    ) -> Self {
        // Registers hold the digests in flight.
        let in_flight = (in_flight / layout.vectors).max(1);
        let scatters = group.is_power_of_two() && group <= layout.lanes;
        let together = if scatters {
            in_flight.min(layout.lanes / group)
        } else {
            0
        };
        Self {
            group,
            shared,
            lanes: layout.lanes,
            vectors: layout.vectors,
            width: layout.width,
            in_flight,
            units,
            page_size,
            together,
        }
    }

    /// Pages that a cube scores at a time.
    fn pages(&self) -> usize {
        self.units / self.lanes * self.in_flight
    }
}

/// Pool pages of the pages that this unit's run scores next; those past the end of a sequence are
/// of no meaning, but they are in the pool.
///
/// Apart from the scoring, so that the page table is read while the length is on its way.
#[cube]
fn next_pages(
    page_table: &Tensor<i32>,
    n_pool_pages: usize,
    sequence: usize,
    first: usize,
    #[comptime] shape: ScoreShape,
) -> Array<usize> {
    let max_pages = page_table.shape(1);
    let runs = comptime!(shape.units / shape.lanes);
    let run = UNIT_POS as usize / shape.lanes;
    let mut pool_pages = Array::<usize>::new(shape.in_flight);
    #[unroll]
    for p in 0..shape.in_flight {
        let page = min(first + p * runs + run, max_pages - 1);
        let pool_page = page_table[sequence * max_pages + page] as usize;
        pool_pages[p] = min(pool_page, n_pool_pages - 1);
    }
    pool_pages
}

/// Pages of a sequence that are scored.
#[cube]
fn pages_of(
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    n_scores: usize,
    sequence: usize,
    #[comptime] shape: ScoreShape,
) -> usize {
    let n_pages = (lengths[sequence] as usize + shape.page_size - 1) / shape.page_size;
    min(min(n_pages, page_table.shape(1)), n_scores)
}

/// Writes the scores of `in_flight` pages from `first + run` on, `runs` apart: the sums of each
/// lane's `[page, query head]` over its run.
#[cube]
fn write_scores(
    sums: &mut Array<f32>,
    scores: &mut Tensor<f32>,
    n_kv_heads: usize,
    sequence: usize,
    head: usize,
    first: usize,
    n_pages: usize,
    #[comptime] shape: ScoreShape,
) {
    let ScoreShape {
        group,
        shared,
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
                of_round[i] = sums[round * n + i];
            }
            let mut bound = lanes_scatter_sum(&mut of_round, n, lanes);
            let page = first + (round * together + part / group) * runs + run;
            if comptime!(shared) {
                let steps = comptime!(group.ilog2());
                #[unroll]
                for s in 0..steps {
                    bound = max(
                        bound,
                        plane_shuffle_xor(bound, comptime!((spread as u32) << s)),
                    );
                }
                if lane % comptime!(spread * group) == 0 && page < n_pages {
                    scores[(sequence * n_kv_heads + head) * n_scores + page] = bound;
                }
            } else if lane % spread == 0 && page < n_pages {
                let query_head = (sequence * n_kv_heads + head) * group + part % group;
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
                let bound = lanes_sum(sums[p * group + g], lanes);
                if comptime!(g == 0) {
                    best = bound;
                } else {
                    best = max(best, bound);
                }
                if comptime!(!shared) && lane == 0 && page < n_pages {
                    let query_head = (sequence * n_kv_heads + head) * group + g;
                    scores[query_head * n_scores + page] = bound;
                }
            }
            if comptime!(shared) && lane == 0 && page < n_pages {
                scores[(sequence * n_kv_heads + head) * n_scores + page] = best;
            }
        }
    }
}

/// The digests of a pool in either form.
#[allow(
    clippy::large_enum_variant,
    reason = "one is made per launch, and not stored"
)]
pub(crate) enum Digests {
    Full(CubeTensor),
    Int8 {
        words: CubeTensor,
        scales: CubeTensor,
    },
}

impl Digests {
    /// Bounds of the attention scores of each page, `[batch, heads, n_scores]`.
    pub(crate) fn page_scores(
        self,
        query: CubeTensor,
        page_table: CubeTensor,
        lengths: CubeTensor,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> CubeTensor {
        match self {
            Self::Full(digests) => page_scores(
                query, digests, page_table, lengths, page_size, shared, n_scores,
            ),
            Self::Int8 { words, scales } => int8_page_scores(
                query, words, scales, page_table, lengths, page_size, shared, n_scores,
            ),
        }
    }
}

/// What a launch computes, and how: a cube for as many pages as it scores at a time, KV head and
/// sequence.
struct Plan {
    shape: ScoreShape,
    cubes: CubeCount,
    dim: CubeDim,
    /// `[batch, heads, n_scores]`
    scores: CubeTensor,
}

impl Plan {
    /// For digests the rows of which are read as `layout` says.
    fn new(
        query: &CubeTensor,
        layout: &RowLayout,
        n_kv_heads: usize,
        shared: bool,
        page_size: usize,
        n_scores: usize,
    ) -> Self {
        let [batch, n_heads, _] = query.meta.shape().dims::<3>();
        let max_units = query.client.properties().hardware.max_units_per_cube as usize;
        let units = UNITS.min(max_units);
        let group = n_heads / n_kv_heads;
        // A small problem needs every multiprocessor more than it needs long queues.
        let cubes = |in_flight| {
            let shape = ScoreShape::new(layout, group, shared, page_size, units, in_flight);
            (shape, n_scores.div_ceil(shape.pages()))
        };
        let enough = 2 * multiprocessors(query);
        let mut in_flight = PAGES_IN_FLIGHT;
        while in_flight > 1 && cubes(in_flight).1 * batch * n_kv_heads < enough {
            in_flight /= 2;
        }
        let (shape, n_cubes) = cubes(in_flight);
        let heads = if shared { n_kv_heads } else { n_heads };
        Self {
            shape,
            cubes: CubeCount::Static(n_cubes as u32, n_kv_heads as u32, batch as u32),
            dim: CubeDim::new_1d(units as u32),
            scores: empty(query, [batch, heads, n_scores], DType::F32),
        }
    }
}
