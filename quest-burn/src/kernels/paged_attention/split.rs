//! The part of attention that one cube computes: one split of the pages of a few query heads.

use cubecl::prelude::*;

use super::{
    args::{ReadArg, SplitsArg},
    softmax::{NO_SCORE, Softmax},
};

/// Query tokens of each head, if there are several: they take the places of as many query heads, those of a
/// head in a row, and each sees the tokens of the sequence up to its own.
pub(super) type Chunk = Option<usize>;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Query heads of a cube.
    pub heads: usize,
    pub chunk: Chunk,
    /// Units that share a row, the loads of each, and the vectors of channels of a load.
    pub lanes: usize,
    pub loads: usize,
    pub pieces: usize,
    pub plane: usize,
    pub units: usize,
    /// Tokens that a run of lanes has in flight.
    pub in_flight: usize,
    pub page_size: usize,
    pub head_dim: usize,
    /// Whether the next tokens are loaded before those at hand are used.
    pub prefetch: bool,
    /// Whether one reduction makes all scores of a run, each in a lane of its own.
    pub transposed: bool,
}

impl Shape {
    /// Scores that a run of lanes computes at a time.
    pub(super) fn n_scores(&self) -> usize {
        self.in_flight * self.heads
    }

    /// Channels of a vector.
    pub(super) fn width(&self) -> usize {
        self.head_dim / self.row()
    }

    /// Loads of a row.
    pub(super) fn row_loads(&self) -> usize {
        self.lanes * self.loads
    }

    /// Vectors of a unit.
    pub(super) fn vectors(&self) -> usize {
        self.loads * self.pieces
    }

    /// Vectors of a row.
    pub(super) fn row(&self) -> usize {
        self.lanes * self.vectors()
    }
}

/// Which vector of a row a lane's `index`-th one is.
#[cube]
pub(super) fn column(lane: usize, #[comptime] index: usize, #[comptime] shape: Shape) -> usize {
    let load = comptime!(index / shape.pieces * shape.lanes);
    (load + lane) * comptime!(shape.pieces) + comptime!(index % shape.pieces)
}

/// Where a cube stands: constants of the launch and the part that is its own.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub sequence: usize,
    /// The first query head, and the KV head that it reads.
    pub query_head: usize,
    pub kv_head: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub n_pool_pages: usize,
    pub max_pages: usize,
    /// Tokens of the sequence.
    pub length: usize,
    /// Where its query tokens start, if there are several.
    pub start: usize,
}

/// The place of a cube among `rows`, runs of `heads` query heads of a sequence.
#[cube]
pub(super) fn place<F: Float, N: Size, E: Numeric, W: Size>(
    read: &ReadArg<F, N, E, W>,
    sequence: usize,
    row: usize,
    #[comptime] heads: usize,
) -> Place {
    let n_heads = read.query.shape(1);
    let n_kv_heads = read.keys.rows.shape(1);
    let query_head = row * heads;
    let mut start = 0usize.runtime();
    #[comptime]
    if let ComptimeOption::Some(starts) = &read.starts {
        start = starts[sequence] as usize;
    }
    Place {
        sequence,
        query_head,
        kv_head: query_head * n_kv_heads / n_heads,
        n_heads,
        n_kv_heads,
        n_pool_pages: read.keys.rows.shape(0),
        max_pages: read.places.page_table.shape(1),
        length: read.places.lengths[sequence] as usize,
        start,
    }
}

/// Tokens at the end of the sequence that a query head does not see: those after its own token. One of padding
/// sees none.
#[cube]
pub(super) fn hidden(place: &Place, head: usize, #[comptime] chunk: Chunk) -> usize {
    let mut hidden = 0usize.runtime();
    if comptime!(chunk.is_some()) {
        let seen = place.start + head % comptime!(chunk.unwrap_or(1)) + 1;
        hidden = place.length - select(seen <= place.length, seen, 0usize);
    }
    hidden
}

/// How the pages are split; see `Partition`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Splitting {
    pub min_pages: u32,
    pub even_splits: u32,
    pub long_pages: u32,
    pub fine_pages: u32,
    pub max_splits: u32,
}

/// Pages that each split of a sequence reads.
#[cube]
pub(super) fn pages_per_split(n_pages: usize, splitting: &Splitting) -> usize {
    let even = n_pages.div_ceil(splitting.even_splits as usize);
    let most = n_pages.div_ceil(splitting.max_splits as usize);
    let fine = max(most, splitting.fine_pages as usize);
    let is_long = even > splitting.long_pages as usize;
    max(select(is_long, fine, even), splitting.min_pages as usize)
}

/// Pages that a cube attends to next, in shared memory.
#[derive(CubeType)]
pub(super) struct Slots {
    /// Pool page of each slot.
    pub pages: Shared<[u32]>,
    /// Tokens of the sequence from the page's first one on.
    pub tokens: Shared<[u32]>,
}

#[cube]
pub(super) fn slots(#[comptime] n: usize) -> Slots {
    Slots {
        pages: Shared::new_slice(n),
        tokens: Shared::new_slice(n),
    }
}

/// Puts a logical page into a slot; an invalid one becomes a page of no tokens.
#[cube]
pub(super) fn stage_page(
    slots: &mut Slots,
    slot: usize,
    page: usize,
    valid: bool,
    page_table: &Tensor<i32>,
    place: &Place,
    #[comptime] page_size: usize,
) {
    let begin = page * page_size;
    let valid = valid && begin < place.length;
    // What is not valid reads the first token instead: rows past the length are undefined.
    let page = select(valid, page, 0usize);
    let pool_page = page_table[place.sequence * place.max_pages + page] as usize;
    slots.pages[slot] = min(pool_page, place.n_pool_pages - 1) as u32;
    slots.tokens[slot] = (place.length - select(valid, begin, place.length)) as u32;
}

/// Puts a page with tokens of the sequence into a slot.
#[cube]
pub(super) fn put_page(
    slots: &mut Slots,
    slot: usize,
    page: usize,
    pool_page: usize,
    place: &Place,
    #[comptime] page_size: usize,
) {
    slots.pages[slot] = min(pool_page, place.n_pool_pages - 1) as u32;
    slots.tokens[slot] = (place.length - page * page_size) as u32;
}

/// What the planes of a cube have summed up, in shared memory: `[plane, head, vector]` and `[plane,
/// head]`.
#[derive(CubeType)]
pub(super) struct PlaneSums<N: Size> {
    pub accumulators: Shared<[Vector<f32, N>]>,
    pub row_maxima: Shared<[f32]>,
    pub row_sums: Shared<[f32]>,
}

/// How many there are of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlaneSumsShape {
    pub planes: usize,
    /// Query heads of a cube.
    pub heads: usize,
    /// Vectors of a row.
    pub row: usize,
}

#[cube]
pub(super) fn plane_sums<N: Size>(#[comptime] shape: PlaneSumsShape) -> PlaneSums<N> {
    let n = comptime!(shape.planes * shape.heads);
    PlaneSums::<N> {
        accumulators: Shared::new_slice(comptime!(n * shape.row)),
        row_maxima: Shared::new_slice(n),
        row_sums: Shared::new_slice(n),
    }
}

/// Merges what the planes have summed up and writes the split's sum, row max and row sum to `splits`. Every
/// unit of the cube must reach it.
#[cube]
pub(super) fn publish_sums<N: Size>(
    plane_sums: &PlaneSums<N>,
    splits: &mut SplitsArg<N>,
    split: usize,
    place: &Place,
    #[comptime] units: usize,
    #[comptime] shape: PlaneSumsShape,
) {
    let PlaneSumsShape { planes, heads, row } = comptime!(shape);
    let n_splits = splits.sums.shape(1);
    sync_cube();
    let mut element = UNIT_POS as usize;
    while element < comptime!(heads * row) {
        let h = element / row;
        let c = element % row;
        let mut row_max = f32::new(NO_SCORE);
        #[unroll]
        for p in 0..planes {
            row_max = max(row_max, plane_sums.row_maxima[p * heads + h]);
        }
        let mut row_sum = f32::new(0.0);
        let mut accumulator = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for p in 0..planes {
            let weight = f32::exp(plane_sums.row_maxima[p * heads + h] - row_max);
            row_sum += weight * plane_sums.row_sums[p * heads + h];
            accumulator = fma(
                Vector::new(weight),
                plane_sums.accumulators[(p * heads + h) * row + c],
                accumulator,
            );
        }
        let head = place.sequence * place.n_heads + place.query_head + h;
        let at = head * n_splits + split;
        splits.sums[at * row + c] = accumulator;
        if c == 0 {
            splits.stats[at * 2] = row_max;
            splits.stats[at * 2 + 1] = row_sum;
        }
        element += units;
    }
}

/// Merges the runs of the cube and writes what its split sums up to.
#[cube]
pub(super) fn publish<N: Size>(
    state: &mut Softmax<N>,
    splits: &mut SplitsArg<N>,
    split: usize,
    place: &Place,
    #[comptime] shape: Shape,
) {
    let vectors = comptime!(shape.vectors());
    let row = comptime!(shape.row());
    let lane = UNIT_POS as usize % shape.lanes;

    if comptime!(shape.transposed) {
        // Each lane has kept one head's row max and row sum.
        let (row_max, row_sum) = (state.row_max[0], state.row_sum[0]);
        let base = UNIT_POS_PLANE / comptime!(shape.lanes as u32) * comptime!(shape.lanes as u32);
        let spread = comptime!(shape.lanes / shape.n_scores());
        #[unroll]
        for h in 0..shape.heads {
            let from = base + comptime!((spread * h) as u32);
            state.row_max[h] = plane_shuffle(row_max, from);
            state.row_sum[h] = plane_shuffle(row_sum, from);
        }
    }
    // The runs of a plane, then the planes of the cube.
    let steps = comptime!((shape.plane / shape.lanes).ilog2());
    #[unroll]
    for h in 0..shape.heads {
        #[unroll]
        for s in 0..steps {
            let mask = comptime!((shape.lanes as u32) << s);
            let other_max = plane_shuffle_xor(state.row_max[h], mask);
            let row_max = max(state.row_max[h], other_max);
            let correction = f32::exp(state.row_max[h] - row_max);
            let other_correction = f32::exp(other_max - row_max);
            let other_sum = plane_shuffle_xor(state.row_sum[h], mask);
            state.row_max[h] = row_max;
            state.row_sum[h] = state.row_sum[h] * correction + other_sum * other_correction;
            #[unroll]
            for c in 0..vectors {
                let own = state.accumulator[h * vectors + c];
                let other = plane_shuffle_xor(own, mask);
                state.accumulator[h * vectors + c] =
                    own * Vector::new(correction) + other * Vector::new(other_correction);
            }
        }
    }
    let planes = comptime!(shape.units / shape.plane);
    let sums_shape = comptime!(PlaneSumsShape {
        planes,
        heads: shape.heads,
        row,
    });
    let plane = UNIT_POS as usize / shape.plane;
    let mut plane_sums = plane_sums::<N>(sums_shape);
    if (UNIT_POS as usize) % shape.plane < shape.lanes {
        #[unroll]
        for h in 0..shape.heads {
            #[unroll]
            for c in 0..vectors {
                let at = (plane * shape.heads + h) * row + column(lane, c, shape);
                plane_sums.accumulators[at] = state.accumulator[h * vectors + c];
            }
            if lane == 0 {
                plane_sums.row_maxima[plane * shape.heads + h] = state.row_max[h];
                plane_sums.row_sums[plane * shape.heads + h] = state.row_sum[h];
            }
        }
    }
    publish_sums::<N>(&plane_sums, splits, split, place, shape.units, sums_shape);
}

/// Writes a split of no tokens, which the merge leaves out.
#[cube]
pub(super) fn publish_nothing<N: Size>(
    splits: &mut SplitsArg<N>,
    split: usize,
    place: &Place,
    #[comptime] heads: usize,
) {
    let h = UNIT_POS as usize;
    if h < heads {
        let head = place.sequence * place.n_heads + place.query_head + h;
        let at = (head * splits.stats.shape(1) + split) * 2;
        splits.stats[at] = f32::new(NO_SCORE);
        splits.stats[at + 1] = f32::new(0.0);
    }
}
