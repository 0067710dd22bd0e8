//! The query heads of a plane: scores, running softmax and output in the registers of matrix
//! instructions.
//!
//! An instruction multiplies `[16, 16]` by `[16, 8]`. Of a result, lane `4 g + t` holds columns `2 t`
//! and `2 t + 1` of rows `g` and `g + 8`. Scores are the product of queries and keys, so that the lane
//! has heads `g` and `g + 8` and two of each 8 tokens; these are the registers that the second operand of
//! the next product has for 8 heads. That one is of values, transposed, and weights: there the lane has
//! heads `2 t` and `2 t + 1` and two channels of each 16.

use cubecl::{cmma::MmaDefinition, prelude::*};

use super::{
    super::{
        super::matrix_instruction::{COLUMNS, DEPTH, ROWS},
        args::SplitsArg,
        softmax::NO_SCORE,
        split::{Place, Slots, hidden, plane_sums, publish_sums},
    },
    MatrixShape, PACKED, PLANE,
    tile::{Run, Tile, run},
};
use crate::row_load::RowLoad;

/// The state of a plane's query heads, `halves` times 8 of them.
#[derive(CubeType)]
pub(super) struct Heads<F: Float, P: Size> {
    /// Of head `g` of each half, every pair of channels that the lane has of a key.
    query: Array<Vector<F, P>>,
    /// Of each half and channel that the lane has of a value, heads `2 t` and `2 t + 1`.
    accumulator: Array<Vector<f32, P>>,
    /// Of head `g` of each half.
    row_max: Array<f32>,
    /// Of this lane's tokens; lanes are summed up at the end.
    row_sum: Array<f32>,
    /// Tokens at the end of the sequence that head `g` of each half does not see.
    hidden: Array<u32>,
}

/// The `index`-th pair of channels of a vector.
#[cube]
fn pair<F: Float, N: Size, P: Size>(
    vector: Vector<F, N>,
    #[comptime] index: usize,
) -> Vector<F, P> {
    let mut taken = Vector::<F, P>::new(F::new(0.0));
    #[unroll]
    for i in 0..PACKED {
        taken.insert(i, vector.extract(comptime!(PACKED * index + i)));
    }
    taken
}

/// The same of a load, before a scale is multiplied: integers are what they are in half precision.
#[cube]
fn stored_pair<L: RowLoad, F: Float, E: Numeric, W: Size, P: Size>(
    load: Vector<E, W>,
    #[comptime] index: usize,
) -> Vector<F, P> {
    let mut taken = Vector::<F, P>::new(F::new(0.0));
    #[unroll]
    for i in 0..PACKED {
        let channel = L::channel::<E, W, F>(load, comptime!(PACKED * index + i));
        taken.insert(i, channel);
    }
    taken
}

/// The heads of a cube before any token.
#[cube]
pub(super) fn start_heads<F: Float, N: Size, P: Size>(
    query: &Tensor<Vector<F, N>>,
    place: &Place,
    #[comptime] shape: MatrixShape,
) -> Heads<F, P> {
    let halves = comptime!(shape.halves());
    let vectors = comptime!(shape.key_vectors());
    let pairs = comptime!(shape.width() / PACKED);
    let n_accumulators = comptime!(halves * 2 * shape.steps());
    let lane = UNIT_POS_PLANE as usize;
    let mut registers = Array::<Vector<F, P>>::new(comptime!(halves * vectors * pairs));
    let mut accumulator = Array::<Vector<f32, P>>::new(n_accumulators);
    let mut row_max = Array::<f32>::new(halves);
    let mut row_sum = Array::<f32>::new(halves);
    let mut of_heads = Array::<u32>::new(halves);
    #[unroll]
    for half in 0..halves {
        row_max[half] = f32::new(NO_SCORE);
        row_sum[half] = f32::new(0.0);
        // Of rows past the heads the results are not used.
        let head = min(lane / 4 + half * COLUMNS, comptime!(shape.heads - 1));
        of_heads[half] = hidden(place, place.query_head + head, shape.chunk) as u32;
        let head = place.sequence * place.n_heads + place.query_head + head;
        #[unroll]
        for v in 0..vectors {
            let vector = query[head * shape.row() + v * 4 + lane % 4];
            #[unroll]
            for p in 0..pairs {
                let at = comptime!((half * vectors + v) * pairs + p);
                registers[at] = pair::<F, N, P>(vector, p);
            }
        }
    }
    #[unroll]
    for i in 0..n_accumulators {
        accumulator[i] = Vector::new(0.0f32);
    }
    Heads::<F, P> {
        query: registers,
        accumulator,
        row_max,
        row_sum,
        hidden: of_heads,
    }
}

/// Scores of a tile, before they are scaled: for each 8 tokens and each half of the rows a register of
/// two tokens.
#[cube]
pub(super) fn scores<L: RowLoad, F: Float, E: Numeric, W: Size, P: Size>(
    heads: &Heads<F, P>,
    tile: &Tile<E, W>,
    #[comptime] shape: MatrixShape,
) -> Array<Vector<f32, P>> {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let steps = comptime!(shape.steps());
    let halves = comptime!(shape.halves());
    let vectors = comptime!(shape.key_vectors());
    let pairs = comptime!(shape.width() / PACKED);
    let none = Vector::<F, P>::new(F::new(0.0));
    let mut scores = Array::<Vector<f32, P>>::new(4usize);
    #[unroll]
    for of_tokens in 0..2usize {
        let mut sum = Array::<Vector<f32, P>>::new(2usize);
        sum[0] = Vector::new(0.0f32);
        sum[1] = Vector::new(0.0f32);
        #[unroll]
        for s in 0..steps {
            let mut lhs = Array::<Vector<F, P>>::new(4usize);
            let mut rhs = Array::<Vector<F, P>>::new(2usize);
            #[unroll]
            for i in 0..2usize {
                let at = comptime!(2 * s + i);
                lhs[2 * i] = heads.query[at];
                if comptime!(halves == 2) {
                    lhs[2 * i + 1] = heads.query[comptime!(2 * steps) + at];
                } else {
                    lhs[2 * i + 1] = none;
                }
                let key = tile.keys[comptime!(of_tokens * vectors + at / pairs)];
                rhs[i] = stored_pair::<L, F, E, W, P>(key, comptime!(at % pairs));
            }
            sum = definition.execute(&lhs, &rhs, &sum);
        }
        scores[2 * of_tokens] = sum[0];
        scores[2 * of_tokens + 1] = sum[1];
    }
    scores
}

/// How many of the 8 tokens of a run, or more, a head sees that does not see the last `hidden` ones.
#[cube]
fn seen(run: &Run, hidden: u32, #[comptime] shape: MatrixShape) -> usize {
    if comptime!(shape.chunk.is_some()) {
        run.left - min(hidden as usize, run.left)
    } else {
        run.used
    }
}

/// Takes a tile's scores into the running softmax; the weights of its tokens, for each half of the heads
/// a register of each 8 tokens.
#[cube]
pub(super) fn weigh<L: RowLoad, F: Float, E: Numeric, W: Size, P: Size>(
    heads: &mut Heads<F, P>,
    tile: &Tile<E, W>,
    scores: &Array<Vector<f32, P>>,
    slots: &Slots,
    first: usize,
    n_slots: usize,
    scale: f32,
    #[comptime] shape: MatrixShape,
) -> Array<Vector<F, P>> {
    let halves = comptime!(shape.halves());
    let n_accumulators = comptime!(2 * shape.steps());
    let lane = UNIT_POS_PLANE as usize;
    let t = lane % 4;
    let upper = run(slots, first, n_slots, shape);
    let lower = run(slots, first + COLUMNS, n_slots, shape);
    let mut weights = Array::<Vector<F, P>>::new(comptime!(2 * halves));
    #[unroll]
    for half in 0..halves {
        let upper_seen = seen(&upper, heads.hidden[half], shape);
        let lower_seen = seen(&lower, heads.hidden[half], shape);
        let mut scaled = Array::<f32>::new(4usize);
        let mut used = Array::<bool>::new(4usize);
        let mut row_max = heads.row_max[half];
        #[unroll]
        for of_tokens in 0..2usize {
            #[unroll]
            for i in 0..2usize {
                let at = comptime!(2 * of_tokens + i);
                let n_seen = if comptime!(of_tokens == 0) {
                    upper_seen
                } else {
                    lower_seen
                };
                used[at] = 2 * t + i < n_seen;
                let mut score = scores[comptime!(2 * of_tokens + half)].extract(i) * scale;
                if comptime!(L::SCALED) {
                    score = score * tile.key_scales[at];
                }
                scaled[at] = select(used[at], score, f32::new(NO_SCORE));
                row_max = max(row_max, scaled[at]);
            }
        }
        row_max = max(row_max, plane_shuffle_xor(row_max, 1u32));
        row_max = max(row_max, plane_shuffle_xor(row_max, 2u32));
        let correction = f32::exp(heads.row_max[half] - row_max);
        heads.row_max[half] = row_max;
        let mut row_sum = heads.row_sum[half] * correction;
        #[unroll]
        for of_tokens in 0..2usize {
            let mut of_pair = Vector::<f32, P>::new(0.0f32);
            #[unroll]
            for i in 0..2usize {
                let at = comptime!(2 * of_tokens + i);
                let weight = f32::exp(scaled[at] - row_max);
                let weight = select(used[at], weight, f32::new(0.0));
                row_sum += weight;
                of_pair.insert(i, weight);
            }
            weights[2 * half + of_tokens] = Vector::<F, P>::cast_from(of_pair);
        }
        heads.row_sum[half] = row_sum;
        // From the lanes that have a head's scores to those that have its sums.
        let mut corrections = Vector::<f32, P>::new(0.0f32);
        #[unroll]
        for i in 0..2usize {
            let from = (2 * t + i) as u32 * 4u32;
            corrections.insert(i, plane_shuffle(correction, from));
        }
        #[unroll]
        for c in 0..n_accumulators {
            heads.accumulator[half * n_accumulators + c] =
                heads.accumulator[half * n_accumulators + c] * corrections;
        }
    }
    weights
}

/// Adds the weighted values of a tile.
#[cube]
pub(super) fn add_values<L: RowLoad, F: Float, E: Numeric, W: Size, P: Size>(
    heads: &mut Heads<F, P>,
    tile: &Tile<E, W>,
    weights: &Array<Vector<F, P>>,
    #[comptime] shape: MatrixShape,
) {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let steps = comptime!(shape.steps());
    let halves = comptime!(shape.halves());
    let vectors = comptime!(shape.value_vectors());
    let width = comptime!(shape.width());
    #[unroll]
    for s in 0..steps {
        // Channels of a lane for rows `g` and `g + 8`, tokens in pairs.
        let mut lhs = Array::<Vector<F, P>>::new(4usize);
        #[unroll]
        for of_tokens in 0..2usize {
            #[unroll]
            for i in 0..2usize {
                let channel = comptime!(2 * s + i);
                let mut tokens = Vector::<F, P>::new(F::new(0.0));
                #[unroll]
                for j in 0..2usize {
                    let at = comptime!((2 * of_tokens + j) * vectors + channel / width);
                    let load = tile.values[at];
                    let channel = comptime!(channel % width);
                    // Scaled before they are rounded: a weight times a scale may be too small for halves.
                    let value = if comptime!(L::SCALED) {
                        let integer = L::channel::<E, W, f32>(load, channel);
                        F::cast_from(integer * tile.value_scales[2 * of_tokens + j])
                    } else {
                        L::channel::<E, W, F>(load, channel)
                    };
                    tokens.insert(j, value);
                }
                lhs[2 * of_tokens + i] = tokens;
            }
        }
        #[unroll]
        for half in 0..halves {
            let mut rhs = Array::<Vector<F, P>>::new(2usize);
            let mut sum = Array::<Vector<f32, P>>::new(2usize);
            let at = comptime!((half * steps + s) * 2);
            #[unroll]
            for i in 0..2usize {
                rhs[i] = weights[2 * half + i];
                sum[i] = heads.accumulator[at + i];
            }
            let sum = definition.execute(&lhs, &rhs, &sum);
            heads.accumulator[at] = sum[0];
            heads.accumulator[at + 1] = sum[1];
        }
    }
}

/// Merges the planes of the cube and writes what its split sums up to.
#[cube]
pub(super) fn publish_heads<F: Float, N: Size, P: Size>(
    heads: &Heads<F, P>,
    splits: &mut SplitsArg<N>,
    split: usize,
    place: &Place,
    #[comptime] shape: MatrixShape,
) {
    let halves = comptime!(shape.halves());
    let width = comptime!(shape.width());
    let vectors = comptime!(shape.value_vectors());
    let row = comptime!(shape.row());
    let n_accumulators = comptime!(2 * shape.steps());
    let lane = UNIT_POS_PLANE as usize;
    let plane = UNIT_POS as usize / PLANE;
    let (g, t) = (lane / 4, lane % 4);
    let mut plane_sums = plane_sums::<N>(comptime!(shape.plane_sums()));
    #[unroll]
    for half in 0..halves {
        let mut row_sum = heads.row_sum[half];
        row_sum += plane_shuffle_xor(row_sum, 1u32);
        row_sum += plane_shuffle_xor(row_sum, 2u32);
        let head = g + half * COLUMNS;
        if t == 0 && head < shape.heads {
            plane_sums.row_maxima[plane * shape.heads + head] = heads.row_max[half];
            plane_sums.row_sums[plane * shape.heads + head] = row_sum;
        }
        #[unroll]
        for i in 0..2usize {
            let head = 2 * t + i + half * COLUMNS;
            if head < shape.heads {
                #[unroll]
                for v in 0..vectors {
                    let mut channels = Vector::<f32, N>::new(0.0f32);
                    #[unroll]
                    for c in 0..width {
                        let accumulator =
                            heads.accumulator[comptime!(half * n_accumulators + v * width + c)];
                        channels.insert(c, accumulator.extract(i));
                    }
                    let at = (plane * shape.heads + head) * row + v * COLUMNS + g;
                    plane_sums.accumulators[at] = channels;
                }
            }
        }
    }
    publish_sums::<N>(
        &plane_sums,
        splits,
        split,
        place,
        comptime!(shape.units()),
        comptime!(shape.plane_sums()),
    );
}
