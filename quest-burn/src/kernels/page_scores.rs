use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    launch::{address_type, empty, multiprocessors},
    row::{RowLayout, dot, lanes_scatter_sum, lanes_sum},
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
    /// Whether one reduction makes all sums of a run.
    scattered: bool,
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
        Self {
            group,
            shared,
            lanes: layout.lanes,
            vectors: layout.vectors,
            width: layout.width,
            in_flight,
            units,
            page_size,
            scattered: group.is_power_of_two() && group * in_flight <= layout.lanes,
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

/// Scores of `in_flight` pages from `first + run` on, `runs` apart, by each run of `lanes` units;
/// each digest is read once for all query heads of its group.
///
/// The bound `sum_i max(q_i * min_i, q_i * max_i)` is taken as `max(q, 0) . max + min(q, 0) . min`.
#[cube]
fn score_pages<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    pool_pages: &Array<usize>,
    scores: &mut Tensor<f32>,
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
        vectors,
        width,
        in_flight,
        scattered,
        ..
    } = comptime!(shape);
    let n_kv_heads = digests.shape(1);
    let n_scores = scores.shape(2);
    let lane = UNIT_POS as usize % lanes;
    let run = UNIT_POS as usize / lanes;
    let runs = CUBE_DIM as usize / lanes;
    let row = comptime!(lanes * vectors);

    let mut low = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
    let mut high = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
    #[unroll]
    for p in 0..in_flight {
        let digest = (pool_pages[p] * n_kv_heads + head) * 2 * row + lane;
        #[unroll]
        for v in 0..vectors {
            low[p * vectors + v] = digests[digest + v * lanes];
            high[p * vectors + v] = digests[digest + row + v * lanes];
        }
    }

    let zero = Vector::<f32, N>::new(0.0f32);
    let n = comptime!(group * in_flight);
    let mut sums = Array::<f32>::new(n);
    #[unroll]
    for g in 0..group {
        let query_head = (sequence * n_kv_heads + head) * group + g;
        #[unroll]
        for p in 0..in_flight {
            sums[p * group + g] = f32::new(0.0);
        }
        #[unroll]
        for v in 0..vectors {
            let q = Vector::<f32, N>::cast_from(query[query_head * row + v * lanes + lane]);
            let positive = max(q, zero);
            let negative = min(q, zero);
            #[unroll]
            for p in 0..in_flight {
                let h = Vector::<f32, N>::cast_from(high[p * vectors + v]);
                let l = Vector::<f32, N>::cast_from(low[p * vectors + v]);
                let sum = dot::<N>(negative, l, sums[p * group + g], width);
                sums[p * group + g] = dot::<N>(positive, h, sum, width);
            }
        }
    }
    if comptime!(scattered) {
        // Page by page, then query head by query head along the run.
        let spread = comptime!(lanes / n);
        let mut bound = lanes_scatter_sum(&mut sums, n, lanes);
        let part = lane / spread;
        let page = first + part / group * runs + run;
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

/// Cubes: as many pages as a cube scores at a time, KV heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
fn page_scores_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    scores: &mut Tensor<f32>,
    #[comptime] shape: ScoreShape,
    #[define(F)] _dtype: ElemType,
) {
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let first = CUBE_POS_X as usize * comptime!(shape.pages());
    let pool_pages = next_pages(page_table, digests.shape(0), sequence, first, shape);
    let n_pages = (lengths[sequence] as usize + shape.page_size - 1) / shape.page_size;
    let n_pages = min(min(n_pages, page_table.shape(1)), scores.shape(2));
    if first < n_pages {
        score_pages::<F, N>(
            query,
            digests,
            &pool_pages,
            scores,
            sequence,
            head,
            first,
            n_pages,
            shape,
        );
    }
}

/// Bounds of the attention scores of each page, `[batch, heads, n_scores]`.
pub(crate) fn page_scores(
    query: CubeTensor,
    digests: CubeTensor,
    page_table: CubeTensor,
    lengths: CubeTensor,
    page_size: usize,
    shared: bool,
    n_scores: usize,
) -> CubeTensor {
    let query = into_contiguous(query);
    let digests = into_contiguous(digests);
    let [batch, n_heads, _] = query.meta.shape().dims::<3>();
    let n_kv_heads = digests.meta.shape()[1];
    let layout = RowLayout::of(&digests);
    let client = query.client.clone();
    let max_units = client.properties().hardware.max_units_per_cube as usize;
    let units = UNITS.min(max_units);
    let group = n_heads / n_kv_heads;
    // A small problem needs every multiprocessor more than it needs long queues.
    let cubes = |in_flight| {
        let shape = ScoreShape::new(&layout, group, shared, page_size, units, in_flight);
        (shape, n_scores.div_ceil(shape.pages()))
    };
    let enough = 2 * multiprocessors(&query);
    let mut in_flight = PAGES_IN_FLIGHT;
    while in_flight > 1 && cubes(in_flight).1 * batch * n_kv_heads < enough {
        in_flight /= 2;
    }
    let (shape, n_cubes) = cubes(in_flight);
    let heads = if shared { n_kv_heads } else { n_heads };
    let scores = empty(&query, [batch, heads, n_scores], DType::F32);
    let address = address_type(&[&digests, &scores]);
    let dtype = dtype_to_storage_type(digests.dtype);
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    unsafe {
        page_scores_kernel::launch_unchecked(
            &client,
            CubeCount::Static(n_cubes as u32, n_kv_heads as u32, batch as u32),
            CubeDim::new_1d(units as u32),
            address,
            layout.width,
            query.into_tensor_arg(),
            digests.into_tensor_arg(),
            into_contiguous(page_table).into_tensor_arg(),
            lengths.into_tensor_arg(),
            scores.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    }
    scores
}
