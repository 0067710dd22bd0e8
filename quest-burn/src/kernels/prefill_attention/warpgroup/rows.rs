//! The query tokens of a group of planes: their running softmax and output in registers.
//!
//! Of a result of 64 rows, lane `4 g + t` of plane `p` holds columns `2 t` and `2 t + 1` of every eight, of
//! rows `16 p + g` and `16 p + g + 8`. Rounded, two in a word, these are the left side of the next product.

use cubecl::prelude::*;
use quest_burn_linear::kernels::warpgroup::exp2;

use super::{super::place::Run, WarpgroupShape};

/// Below any score.
const NO_SCORE: f32 = -1e30;
/// What a weight is the power of 2 of at most, before sums are taken from a higher score.
const LARGEST_WEIGHT: f32 = 8.0;

/// The state of a unit's two rows, `g` and `g + 8`.
#[derive(CubeType)]
pub(super) struct Rows {
    /// Four for each eight channels.
    pub out: Array<f32>,
    /// The score that weights are taken from: the highest one, or one that is little less.
    highest: Array<f32>,
    total: Array<f32>,
}

/// Rows that have seen no key.
#[cube]
pub(super) fn start_rows(#[comptime] shape: WarpgroupShape) -> Rows {
    let n_out = comptime!(shape.head_dim / 2);
    let mut out = Array::<f32>::new(n_out);
    #[unroll]
    for i in 0..n_out {
        out[i] = f32::new(0.0);
    }
    let mut highest = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        highest[half] = f32::new(NO_SCORE);
        total[half] = f32::new(0.0);
    }
    Rows {
        out,
        highest,
        total,
    }
}

/// Hides what a row does not see. `visible` are the keys of the tile that row `g` sees; row `g + 8` sees 8
/// more.
#[cube]
fn mask(scores: &mut Array<f32>, visible: i32, #[comptime] n_keys: usize) {
    let t = (UNIT_POS % 4) as i32;
    #[unroll]
    for half in 0..2usize {
        #[unroll]
        for c in 0..comptime!(n_keys / 8) {
            #[unroll]
            for i in 0..2usize {
                let at = comptime!(4 * c + 2 * half + i);
                let key = comptime!((c * 8 + i) as i32) + 2i32 * t;
                let seen = key < visible + comptime!((half * 8) as i32);
                scores[at] = select(seen, scores[at], f32::new(NO_SCORE));
            }
        }
    }
}

/// Turns the scores of a tile into weights, and rescales what the rows hold where it has to be. `scale` is
/// for powers of 2.
#[cube]
pub(super) fn fold<F: Float>(
    rows: &mut Rows,
    scores: &mut Array<f32>,
    visible: i32,
    masked: bool,
    scale: f32,
    #[comptime] n_keys: usize,
    #[comptime] shape: WarpgroupShape,
) -> Array<u32> {
    let size!(P) = 2usize;
    let columns = comptime!(n_keys / 8);
    if masked {
        mask(scores, visible, n_keys);
    }
    let mut corrections = Array::<f32>::new(2usize);
    let mut rises = false;
    #[unroll]
    for half in 0..2usize {
        let mut highest = rows.highest[half];
        #[unroll]
        for c in 0..columns {
            #[unroll]
            for i in 0..2usize {
                highest = max(highest, scores[comptime!(4 * c + 2 * half + i)]);
            }
        }
        highest = max(highest, plane_shuffle_xor(highest, 1u32));
        highest = max(highest, plane_shuffle_xor(highest, 2u32));
        // Weights may be large before they are rescaled: half precision holds them.
        let risen = (highest - rows.highest[half]) * scale > f32::new(LARGEST_WEIGHT);
        let reference = select(risen, highest, rows.highest[half]);
        corrections[half] = exp2((rows.highest[half] - reference) * scale);
        rows.highest[half] = reference;
        rises = rises || risen;
    }
    let mut weights = Array::<u32>::new(comptime!(n_keys / 4));
    #[unroll]
    for half in 0..2usize {
        let shift = -rows.highest[half] * scale;
        let mut total = rows.total[half] * corrections[half];
        #[unroll]
        for c in 0..columns {
            let first = comptime!(4 * c + 2 * half);
            let mut pair = Vector::<f32, P>::new(exp2(fma(scores[first], scale, shift)));
            pair.insert(1usize, exp2(fma(scores[first + 1], scale, shift)));
            total += pair.extract(0usize) + pair.extract(1usize);
            weights[2 * c + half] = u32::reinterpret(Vector::<F, P>::cast_from(pair));
        }
        // Of this lane's keys; lanes are summed up at the end.
        rows.total[half] = total;
    }
    if plane_any(rises) {
        #[unroll]
        for half in 0..2usize {
            #[unroll]
            for c in 0..comptime!(shape.head_dim / 8) {
                #[unroll]
                for i in 0..2usize {
                    let at = comptime!(4 * c + 2 * half + i);
                    rows.out[at] = rows.out[at] * corrections[half];
                }
            }
        }
    }
    weights
}

/// Writes the rows that the step has: what they are, or zeros past the tokens that the sequence gains.
#[cube]
pub(super) fn write<F: Float, P: Size>(
    rows: &Rows,
    output: &mut Tensor<Vector<F, P>>,
    upper: usize,
    run: &Run,
    tokens: usize,
    #[comptime] shape: WarpgroupShape,
) {
    let t = UNIT_POS as usize % 4;
    #[unroll]
    for half in 0..2usize {
        let mut total = rows.total[half];
        total += plane_shuffle_xor(total, 1u32);
        total += plane_shuffle_xor(total, 2u32);
        let factor = 1.0f32 / total;
        let token = upper + half * 8;
        if token < tokens {
            let at = (run.first_row + token) * comptime!(shape.head_dim / 2) + t;
            #[unroll]
            for c in 0..comptime!(shape.head_dim / 8) {
                let first = comptime!(4 * c + 2 * half);
                let mut pair = Vector::<f32, P>::new(rows.out[first] * factor);
                pair.insert(1usize, rows.out[first + 1] * factor);
                // A query that is no token may be no number.
                let pair = select(token < run.gained, pair, Vector::new(0.0f32));
                output[at + comptime!(c * 4)] = Vector::<F, P>::cast_from(pair);
            }
        }
    }
}
