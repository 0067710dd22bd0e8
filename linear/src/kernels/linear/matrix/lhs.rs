//! LHS rows in digits.
//!
//! A plane prepares what it will multiply, so that no other is waited for.

use cubecl::prelude::*;

use super::{
    super::super::{
        matrix_instruction::PLANE,
        row::{lanes_max, lanes_sum},
    },
    shape::{DIGITS, LANES, MatrixShape, PIECE, PLANES, WIDTH, WORDS},
};

/// What the largest channel of a block becomes: its upper digit must fit, rounded up.
const LARGEST: f32 = 32_512.0;
/// Added to a channel, it makes its bits an integer whose lowest 16 are two digits, each 128 more than
/// it is: 1.5 times 2^23, 128 times 256, and 128.
const BIAS: f32 = 12_582_912.0 + 32_896.0;
/// The bits in which bytes that are 128 more differ from those that have a sign.
const SIGNS: i32 = 0x8080_8080_u32 as i32;
const EVEN_BYTES: i32 = 0x00FF_00FF;
const ODD_BYTES: i32 = 0xFF00_FF00_u32 as i32;
/// What the largest channel of a block counts as at least, so that it has an inverse.
const SMALLEST: f32 = 1e-30;

/// Most pieces that a lane prefetches, unless a whole LHS row has more.
const MAX_PREFETCHED: usize = 4;

/// LHS rows in shared memory.
#[derive(CubeType)]
pub(super) struct Lhs<W: Size> {
    /// At [`digits_at`]: bytes in the order of the weights that a mask keeps.
    pub digits: Shared<[Vector<i32, W>]>,
    /// The sum of each block's integers.
    pub sums: Shared<[f32]>,
    /// What each block's integers are in units of.
    pub units: Shared<[f32]>,
    /// The sum of the squares of each plane's channels.
    pub squares: Shared<[f32]>,
}

/// Where the digits of one place lie that go with a lane's load of a block.
#[cube]
pub(super) fn digits_at(
    side: usize,
    block: usize,
    pair: usize,
    digit: usize,
    lane: usize,
    #[comptime] shape: MatrixShape,
) -> usize {
    (((side * shape.blocks() + block) * shape.pairs() + pair) * DIGITS + digit) * LANES + lane
}

/// The lowest 16 bits of two integers.
#[cube]
fn pair(low: i32, high: i32) -> i32 {
    (low & 0xFFFFi32) | (high << 16i32)
}

/// The piece of an LHS row that this lane prepares.
#[cube]
fn piece(#[comptime] round: usize, #[comptime] shape: MatrixShape) -> usize {
    let of_segment = comptime!(shape.segment_pieces());
    let i = comptime!(round * PLANE) + UNIT_POS_PLANE as usize;
    let plane = UNIT_POS as usize / PLANE;
    (plane + i / of_segment * PLANES) * of_segment + i % of_segment
}

/// Vectors of this lane's pieces of the first few rows, two to each piece.
#[cube]
pub(super) fn load_pieces<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    #[comptime] n_rows: usize,
    #[comptime] shape: MatrixShape,
) -> Array<Vector<F, N>> {
    let rounds = comptime!(rounds(shape));
    let mut vectors = Array::<Vector<F, N>>::new(comptime!(2 * n_rows * rounds));
    #[unroll]
    for row in 0..n_rows {
        #[unroll]
        for round in 0..rounds {
            let at = vector_of(row, round, shape);
            vectors[2 * (row * rounds + round)] = rows[at];
            vectors[2 * (row * rounds + round) + 1] = rows[at + 1];
        }
    }
    vectors
}

/// Where a piece that this lane prepares begins; past the end the last one, which is not used.
#[cube]
fn vector_of(
    #[comptime] row: usize,
    #[comptime] round: usize,
    #[comptime] shape: MatrixShape,
) -> usize {
    let i = min(piece(round, shape), comptime!(shape.d_input / PIECE - 1));
    comptime!(row * shape.d_input / WIDTH) + 2 * i
}

/// Pieces of an LHS row that a lane prepares.
fn rounds(shape: MatrixShape) -> usize {
    (shape.segments().div_ceil(PLANES) * shape.segment_pieces()).div_ceil(PLANE)
}

/// LHS rows that are loaded before the weights, behind which they would wait: as many as registers
/// have room for.
pub(super) fn prefetched(shape: MatrixShape) -> usize {
    (MAX_PREFETCHED / rounds(shape)).clamp(1, shape.lhs_rows)
}

/// Puts this plane's part of the LHS rows into digits, multiplied with the norm's weight, if they are
/// to be normed. `first` are the pieces of those that were
/// prefetched. Every unit of the plane must reach it.
#[cube]
pub(super) fn stage_lhs<F: Float, N: Size, W: Size>(
    rows: &Tensor<Vector<F, N>>,
    first: &Array<Vector<F, N>>,
    gamma: &Array<Vector<F, N>>,
    #[comptime] shape: MatrixShape,
) -> Lhs<W> {
    let m = comptime!(shape.lhs_rows);
    let blocks = comptime!(shape.blocks());
    let rounds = comptime!(rounds(shape));
    let prefetched = comptime!(prefetched(shape));
    let pieces = comptime!(shape.d_input / PIECE);
    let pairs = comptime!(shape.pairs());
    let of_block = comptime!(LANES * pairs);
    let mut lhs = Lhs::<W> {
        digits: Shared::new_slice(comptime!(m * pieces * DIGITS)),
        sums: Shared::new_slice(comptime!(m * blocks)),
        units: Shared::new_slice(comptime!(m * blocks)),
        squares: Shared::new_slice(comptime!(m * PLANES)),
    };
    #[unroll]
    for row in 0..m {
        let mut square = f32::new(0.0);
        #[unroll]
        for round in 0..rounds {
            let i = piece(round, shape);
            let is_in = i < pieces;
            let mut values = Array::<Vector<f32, N>>::new(2usize);
            let mut largest = f32::new(0.0);
            #[unroll]
            for half in 0..2usize {
                let index = comptime!(2 * round + half);
                let loaded = if comptime!(row < prefetched) {
                    first[comptime!(2 * row * rounds + index)]
                } else {
                    rows[vector_of(row, round, shape) + half]
                };
                let mut value = Vector::<f32, N>::cast_from(loaded);
                if comptime!(shape.normed) {
                    let own = (value * value).vector_sum();
                    square += select(is_in, own, 0.0f32);
                    value *= Vector::<f32, N>::cast_from(gamma[index]);
                }
                #[unroll]
                for channel in 0..WIDTH {
                    largest = max(largest, f32::abs(value.extract(channel)));
                }
                values[half] = value;
            }
            let largest = max(lanes_max(largest, of_block), f32::new(SMALLEST));
            let scale = f32::new(LARGEST) / largest;
            let mut integers = Array::<i32>::new(PIECE);
            // What is no number makes the sum none.
            let mut sum = f32::new(0.0);
            #[unroll]
            for channel in 0..PIECE {
                let value = values[channel / WIDTH].extract(comptime!(channel % WIDTH));
                let biased = fma(value, scale, f32::new(BIAS));
                sum += biased - BIAS;
                integers[channel] = i32::reinterpret(biased);
            }
            let sum = lanes_sum(sum, of_block);
            if is_in {
                let within = i % of_block;
                let block = i / of_block;
                let at = digits_at(row, block, within % pairs, 0usize, within / pairs, shape);
                let mut upper = Vector::<i32, W>::new(0i32);
                let mut lower = Vector::<i32, W>::new(0i32);
                #[unroll]
                for word in 0..WORDS {
                    let even = pair(
                        integers[comptime!(shape.channel(word, 0))],
                        integers[comptime!(shape.channel(word, 2))],
                    );
                    let odd = pair(
                        integers[comptime!(shape.channel(word, 1))],
                        integers[comptime!(shape.channel(word, 3))],
                    );
                    let bytes = (even & EVEN_BYTES) | ((odd & EVEN_BYTES) << 8i32);
                    lower.insert(word, bytes ^ SIGNS);
                    let bytes = ((even >> 8i32) & EVEN_BYTES) | (odd & ODD_BYTES);
                    upper.insert(word, bytes ^ SIGNS);
                }
                lhs.digits[at] = upper;
                lhs.digits[at + LANES] = lower;
                if within == 0 {
                    lhs.sums[row * blocks + block] = sum * comptime!(shape.factor());
                    lhs.units[row * blocks + block] =
                        largest * comptime!(1.0 / (LARGEST * shape.factor()));
                }
            }
        }
        if comptime!(shape.normed) {
            let square = lanes_sum(square, PLANE);
            if UNIT_POS_PLANE == 0 {
                lhs.squares[row * PLANES + UNIT_POS as usize / PLANE] = square;
            }
        }
    }
    sync_plane();
    lhs
}

/// What an LHS row is to be divided by. The sums of all planes must be there.
#[cube]
pub(super) fn root_mean_square<W: Size>(
    lhs: &Lhs<W>,
    side: usize,
    epsilon: f32,
    #[comptime] shape: MatrixShape,
) -> f32 {
    let mut total = f32::new(0.0);
    #[unroll]
    for plane in 0..PLANES {
        total += lhs.squares[side * PLANES + plane];
    }
    f32::sqrt(total / comptime!(shape.d_input as f32) + epsilon)
}
