//! The part of attention that one cube computes: one split of the pages of a few query heads.

use cubecl::prelude::*;

use super::{
    args::{ReadArg, SplitsArg},
    softmax::{NO_SCORE, Softmax},
};

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Query heads of a cube.
    pub heads: usize,
    /// Units that share a row, and the vectors of each.
    pub lanes: usize,
    pub vectors: usize,
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
    pub fn n_scores(&self) -> usize {
        self.in_flight * self.heads
    }

    /// Channels of a vector.
    pub fn width(&self) -> usize {
        self.head_dim / self.row()
    }

    /// Vectors of a row.
    pub fn row(&self) -> usize {
        self.lanes * self.vectors
    }
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
}

/// The place of a cube among `rows`, runs of `heads` query heads of a sequence.
#[cube]
pub(super) fn place<F: Float, N: Size>(
    read: &ReadArg<F, N>,
    sequence: usize,
    row: usize,
    #[comptime] heads: usize,
) -> Place {
    let n_heads = read.query.shape(1);
    let n_kv_heads = read.keys.shape(1);
    let query_head = row * heads;
    Place {
        sequence,
        query_head,
        kv_head: query_head * n_kv_heads / n_heads,
        n_heads,
        n_kv_heads,
        n_pool_pages: read.keys.shape(0),
        max_pages: read.places.page_table.shape(1),
        length: read.places.lengths[sequence] as usize,
    }
}

/// Pages that each split of a sequence reads; see `Partition`.
#[cube]
pub(super) fn pages_per_split(n_pages: usize, min_pages: u32, max_splits: u32) -> usize {
    let max_splits = max_splits as usize;
    max((n_pages + max_splits - 1) / max_splits, min_pages as usize)
}

/// Pages that a cube attends to next, in shared memory.
#[derive(CubeType)]
pub(super) struct Slots {
    /// Pool page of each slot.
    pub pages: Shared<[u32]>,
    /// Tokens of the page that are within the sequence.
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
    let tokens = min(page_size, place.length - select(valid, begin, place.length));
    slots.tokens[slot] = tokens as u32;
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
    slots.tokens[slot] = min(page_size, place.length - page * page_size) as u32;
}

/// What the planes of a cube have summed up, in shared memory: `[plane, head, vector]` and `[plane,
/// head]`.
#[derive(CubeType)]
pub(super) struct Parts<N: Size> {
    pub outs: Shared<[Vector<f32, N>]>,
    pub highests: Shared<[f32]>,
    pub totals: Shared<[f32]>,
}

/// How many there are of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PartsShape {
    pub planes: usize,
    /// Query heads of a cube.
    pub heads: usize,
    /// Vectors of a row.
    pub row: usize,
}

#[cube]
pub(super) fn parts<N: Size>(#[comptime] shape: PartsShape) -> Parts<N> {
    let n = comptime!(shape.planes * shape.heads);
    Parts::<N> {
        outs: Shared::new_slice(comptime!(n * shape.row)),
        highests: Shared::new_slice(n),
        totals: Shared::new_slice(n),
    }
}

/// Merges the parts of the planes and writes the split's sum and its
/// highest score and total to `splits`. Every unit of the cube must reach it.
#[cube]
pub(super) fn publish_parts<N: Size>(
    parts: &Parts<N>,
    splits: &mut SplitsArg<N>,
    split: usize,
    place: &Place,
    #[comptime] units: usize,
    #[comptime] shape: PartsShape,
) {
    let PartsShape { planes, heads, row } = comptime!(shape);
    let n_splits = splits.sums.shape(1);
    sync_cube();
    let mut element = UNIT_POS as usize;
    while element < comptime!(heads * row) {
        let h = element / row;
        let c = element % row;
        let mut highest = f32::new(NO_SCORE);
        #[unroll]
        for p in 0..planes {
            highest = max(highest, parts.highests[p * heads + h]);
        }
        let mut total = f32::new(0.0);
        let mut out = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for p in 0..planes {
            let weight = f32::exp(parts.highests[p * heads + h] - highest);
            total += weight * parts.totals[p * heads + h];
            out = fma(
                Vector::new(weight),
                parts.outs[(p * heads + h) * row + c],
                out,
            );
        }
        let head = place.sequence * place.n_heads + place.query_head + h;
        let at = head * n_splits + split;
        splits.sums[at * row + c] = out;
        if c == 0 {
            splits.stats[at * 2] = highest;
            splits.stats[at * 2 + 1] = total;
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
    let vectors = comptime!(shape.vectors);
    let row = comptime!(shape.row());
    let lane = UNIT_POS as usize % shape.lanes;

    if comptime!(shape.transposed) {
        // Each lane has kept one head's highest score and total.
        let (highest, total) = (state.highest[0], state.total[0]);
        let base = UNIT_POS_PLANE / comptime!(shape.lanes as u32) * comptime!(shape.lanes as u32);
        let spread = comptime!(shape.lanes / shape.n_scores());
        #[unroll]
        for h in 0..shape.heads {
            let from = base + comptime!((spread * h) as u32);
            state.highest[h] = plane_shuffle(highest, from);
            state.total[h] = plane_shuffle(total, from);
        }
    }
    // The runs of a plane, then the planes of the cube.
    let steps = comptime!((shape.plane / shape.lanes).ilog2());
    #[unroll]
    for h in 0..shape.heads {
        #[unroll]
        for s in 0..steps {
            let mask = comptime!((shape.lanes as u32) << s);
            let other_highest = plane_shuffle_xor(state.highest[h], mask);
            let highest = max(state.highest[h], other_highest);
            let correction = f32::exp(state.highest[h] - highest);
            let other_correction = f32::exp(other_highest - highest);
            let other_total = plane_shuffle_xor(state.total[h], mask);
            state.highest[h] = highest;
            state.total[h] = state.total[h] * correction + other_total * other_correction;
            #[unroll]
            for c in 0..vectors {
                let own = state.out[h * vectors + c];
                let other = plane_shuffle_xor(own, mask);
                state.out[h * vectors + c] =
                    own * Vector::new(correction) + other * Vector::new(other_correction);
            }
        }
    }
    let planes = comptime!(shape.units / shape.plane);
    let parts_shape = comptime!(PartsShape {
        planes,
        heads: shape.heads,
        row,
    });
    let plane = UNIT_POS as usize / shape.plane;
    let mut parts = parts::<N>(parts_shape);
    if (UNIT_POS as usize) % shape.plane < shape.lanes {
        #[unroll]
        for h in 0..shape.heads {
            #[unroll]
            for c in 0..vectors {
                let at = (plane * shape.heads + h) * row + c * shape.lanes + lane;
                parts.outs[at] = state.out[h * vectors + c];
            }
            if lane == 0 {
                parts.highests[plane * shape.heads + h] = state.highest[h];
                parts.totals[plane * shape.heads + h] = state.total[h];
            }
        }
    }
    publish_parts::<N>(&parts, splits, split, place, shape.units, parts_shape);
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
