//! The 16 query tokens of a plane: their scores, running softmax and output in the registers of
//! matrix instructions.
//!
//! An instruction multiplies `[16, 16]` by `[16, 8]`. Of a result, lane `4 g + t` holds columns `2 t`
//! and `2 t + 1` of rows `g` and `g + 8`, which is also how it holds the left side of the next one:
//! weights of keys go from scores to the product with the values without leaving their lane.

use cubecl::{
    cmma::{MatrixIdent, MmaDefinition},
    prelude::*,
};

use super::{
    super::super::matrix_instruction::{COLUMNS, DEPTH, ROWS},
    PrefillShape,
    tile::Tile,
};

/// Below any score.
const NO_SCORE: f32 = -1e30;

/// The state of a plane's rows; of each pair the first is of row `g`, the second of row `g + 8`.
#[derive(CubeType)]
pub(super) struct Rows<F: Float, P: Size> {
    /// Four registers for each 16 channels.
    query: Array<Vector<F, P>>,
    /// Two registers for each 8 channels.
    out: Array<Vector<f32, P>>,
    highest: Array<f32>,
    total: Array<f32>,
}

/// Rows that have seen no key, of queries at `upper` and `lower`, in vectors of two channels.
#[cube]
pub(super) fn start_rows<F: Float, P: Size>(
    query: &Tensor<Vector<F, P>>,
    upper: usize,
    lower: usize,
    #[comptime] shape: PrefillShape,
) -> Rows<F, P> {
    let steps = comptime!(shape.head_dim / DEPTH);
    let n_out = comptime!(shape.head_dim / COLUMNS * 2);
    let t = UNIT_POS_PLANE as usize % 4;
    let mut registers = Array::<Vector<F, P>>::new(comptime!(4 * steps));
    #[unroll]
    for s in 0..steps {
        let channel = comptime!(s * DEPTH / 2) + t;
        registers[4 * s] = query[upper + channel];
        registers[4 * s + 1] = query[lower + channel];
        registers[4 * s + 2] = query[upper + channel + 4];
        registers[4 * s + 3] = query[lower + channel + 4];
    }
    let mut out = Array::<Vector<f32, P>>::new(n_out);
    #[unroll]
    for i in 0..n_out {
        out[i] = Vector::new(0.0f32);
    }
    let mut highest = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        highest[half] = f32::new(NO_SCORE);
        total[half] = f32::new(0.0);
    }
    Rows::<F, P> {
        query: registers,
        out,
        highest,
        total,
    }
}

/// Scores of a tile's keys, two registers for each 8 keys.
#[cube]
fn scores<F: Float, N: Size, P: Size>(
    query: &Array<Vector<F, P>>,
    tile: &Tile<F, N>,
    #[comptime] shape: PrefillShape,
) -> Array<Vector<f32, P>> {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let lane = UNIT_POS_PLANE as usize;
    let pairs = comptime!(shape.keys / (2 * COLUMNS));
    let steps = comptime!(shape.head_dim / DEPTH);
    let mut scores = Array::<Vector<f32, P>>::new(comptime!(4 * pairs));
    #[unroll]
    for pair in 0..pairs {
        let mut left = Array::<Vector<f32, P>>::new(2usize);
        let mut right = Array::<Vector<f32, P>>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            left[half] = Vector::new(0.0f32);
            right[half] = Vector::new(0.0f32);
        }
        // Lanes 0 to 7 point at the rows of the first matrix, and so on: 8 keys by 8 channels, then
        // the next channels, then the next keys.
        let key = comptime!(pair * 2 * COLUMNS) + lane / 16 * 8 + lane % 8;
        let row = key * shape.stride() + lane / 8 % 2;
        #[unroll]
        for s in 0..steps {
            let at = row + comptime!(2 * s);
            let loaded = definition.load_matrix::<Vector<F, N>, P>(
                &tile.keys[at..at + 1],
                MatrixIdent::B,
                4usize,
                false,
            );
            let left_side = four::<F, P>(query, comptime!(4 * s));
            left = definition.execute(&left_side, &two::<F, P>(&loaded, 0usize), &left);
            right = definition.execute(&left_side, &two::<F, P>(&loaded, 2usize), &right);
        }
        #[unroll]
        for half in 0..2usize {
            scores[4 * pair + half] = left[half];
            scores[4 * pair + 2 + half] = right[half];
        }
    }
    scores
}

/// Folds a tile into the rows. `visible` are the keys of the tile that row `g` sees; the row 8
/// tokens later sees 8 more. Without `masked` every row sees all of them.
#[cube]
pub(super) fn fold<F: Float, N: Size, P: Size>(
    rows: &mut Rows<F, P>,
    tile: &Tile<F, N>,
    visible: i32,
    masked: bool,
    scale: f32,
    #[comptime] shape: PrefillShape,
) {
    let columns = comptime!(shape.keys / COLUMNS);
    let n_out = comptime!(shape.head_dim / COLUMNS);
    let t = (UNIT_POS_PLANE % 4) as i32;
    let mut weights = scores::<F, N, P>(&rows.query, tile, shape);

    #[unroll]
    for half in 0..2usize {
        let mut highest = rows.highest[half];
        #[unroll]
        for c in 0..columns {
            let mut pair = weights[2 * c + half] * Vector::new(scale);
            if masked {
                #[unroll]
                for i in 0..2usize {
                    let key = comptime!((c * COLUMNS + i) as i32) + 2i32 * t;
                    let seen = key < visible + comptime!((half * 8) as i32);
                    pair.insert(i, select(seen, pair.extract(i), f32::new(NO_SCORE)));
                }
            }
            weights[2 * c + half] = pair;
            highest = max(highest, max(pair.extract(0usize), pair.extract(1usize)));
        }
        highest = max(highest, plane_shuffle_xor(highest, 1u32));
        highest = max(highest, plane_shuffle_xor(highest, 2u32));
        let correction = f32::exp(rows.highest[half] - highest);
        rows.highest[half] = highest;
        let mut total = rows.total[half] * correction;
        #[unroll]
        for c in 0..columns {
            let mut pair = weights[2 * c + half];
            #[unroll]
            for i in 0..2usize {
                let weight = f32::exp(pair.extract(i) - highest);
                total += weight;
                pair.insert(i, weight);
            }
            weights[2 * c + half] = pair;
        }
        // Of this lane's keys; lanes are summed up at the end.
        rows.total[half] = total;
        #[unroll]
        for c in 0..n_out {
            rows.out[2 * c + half] = rows.out[2 * c + half] * Vector::new(correction);
        }
    }
    add_values::<F, N, P>(rows, tile, &weights, shape);
}

/// Adds the weighted values of a tile.
#[cube]
fn add_values<F: Float, N: Size, P: Size>(
    rows: &mut Rows<F, P>,
    tile: &Tile<F, N>,
    weights: &Array<Vector<f32, P>>,
    #[comptime] shape: PrefillShape,
) {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let lane = UNIT_POS_PLANE as usize;
    let steps = comptime!(shape.keys / DEPTH);
    let pairs = comptime!(shape.head_dim / (2 * COLUMNS));
    #[unroll]
    for s in 0..steps {
        let mut left = Array::<Vector<F, P>>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            left[i] = Vector::<F, P>::cast_from(weights[4 * s + i]);
        }
        // Read transposed: 8 keys by 8 channels, the next keys, then the next channels.
        let key = comptime!(s * DEPTH) + lane / 8 % 2 * 8 + lane % 8;
        let row = key * shape.stride() + lane / 16;
        #[unroll]
        for pair in 0..pairs {
            let at = row + comptime!(2 * pair);
            let loaded = definition.load_matrix::<Vector<F, N>, P>(
                &tile.values[at..at + 1],
                MatrixIdent::B,
                4usize,
                true,
            );
            #[unroll]
            for c in 0..2usize {
                let at = comptime!(2 * (2 * pair + c));
                let sum = two::<f32, P>(&rows.out, at);
                let sum = definition.execute(&left, &two::<F, P>(&loaded, 2 * c), &sum);
                rows.out[at] = sum[0];
                rows.out[at + 1] = sum[1];
            }
        }
    }
}

/// Writes the rows to `upper` and `lower`, in vectors of two channels, where they are wanted: what
/// they are, or zeros.
#[cube]
pub(super) fn write<F: Float, P: Size>(
    rows: &Rows<F, P>,
    output: &mut Tensor<Vector<F, P>>,
    at: &Array<usize>,
    wanted: &Array<bool>,
    is_token: &Array<bool>,
    #[comptime] shape: PrefillShape,
) {
    let n_out = comptime!(shape.head_dim / COLUMNS);
    let t = UNIT_POS_PLANE as usize % 4;
    #[unroll]
    for half in 0..2usize {
        let mut total = rows.total[half];
        total += plane_shuffle_xor(total, 1u32);
        total += plane_shuffle_xor(total, 2u32);
        let factor = 1.0f32 / total;
        if wanted[half] {
            #[unroll]
            for c in 0..n_out {
                let sum = rows.out[2 * c + half] * Vector::new(factor);
                // A query that is no token may be no number.
                let sum = select(is_token[half], sum, Vector::new(0.0f32));
                let channel = comptime!(c * COLUMNS / 2) + t;
                output[at[half] + channel] = Vector::<F, P>::cast_from(sum);
            }
        }
    }
}

/// Registers `first` and the next of an array.
#[cube]
fn two<F: Float, P: Size>(
    registers: &Array<Vector<F, P>>,
    #[comptime] first: usize,
) -> Array<Vector<F, P>> {
    let mut taken = Array::<Vector<F, P>>::new(2usize);
    #[unroll]
    for i in 0..2usize {
        taken[i] = registers[first + i];
    }
    taken
}

/// Registers `first` and the next three of an array.
#[cube]
fn four<F: Float, P: Size>(
    registers: &Array<Vector<F, P>>,
    #[comptime] first: usize,
) -> Array<Vector<F, P>> {
    let mut taken = Array::<Vector<F, P>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        taken[i] = registers[first + i];
    }
    taken
}
