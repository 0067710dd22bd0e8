//! Sums in registers, to the output.
//!
//! Of a result of 16 rows, lane `4 g + t` of a plane holds columns `2 t` and `2 t + 1` of every eight, of rows `g` and
//! `g + 8`.

use cubecl::prelude::*;

use super::{super::super::matrix_instruction::PLANE, WIDTH};

/// Writes 16 rows of so many columns, whose sums begin at `first`: those of them that the output has, eight columns at
/// once.
#[cube]
pub(in super::super) fn write<F: Float, N: Size>(
    sums: &Array<f32>,
    output: &mut Tensor<Vector<F, N>>,
    first_row: usize,
    first_column: usize,
    #[comptime] first: usize,
    #[comptime] columns: usize,
) {
    let size!(W) = 4usize;
    let lane = UNIT_POS as usize % PLANE;
    let upper = first_row + lane / 4;
    let stride = output.stride(0) / WIDTH;
    #[unroll]
    for half in 0..2usize {
        let row = upper + half * 8;
        #[unroll]
        for four in 0..comptime!(columns / (4 * WIDTH)) {
            let words = exchange::<F, W>(sums, comptime!(first + 16 * four + 2 * half));
            let column = first_column + comptime!(four * 4 * WIDTH) + lane % 4 * WIDTH;
            if row < output.shape(0) && column < output.shape(1) {
                output[row * stride + column / WIDTH] = Vector::<F, N>::reinterpret(words);
            }
        }
    }
}

/// Four lanes hold two columns each of four times eight: the eight of which this one is to write.
#[cube]
fn exchange<F: Float, W: Size>(sums: &Array<f32>, #[comptime] first: usize) -> Vector<u32, W> {
    let lane = UNIT_POS % 4;
    let high = lane >= 2;
    let odd = lane % 2 == 1;
    // Lanes two apart: each keeps the eights of its pair of lanes.
    let mut from_low = Array::<u32>::new(2usize);
    let mut from_high = Array::<u32>::new(2usize);
    #[unroll]
    for i in 0..2usize {
        let low_eight = pair::<F>(sums, comptime!(first + 4 * i));
        let high_eight = pair::<F>(sums, comptime!(first + 4 * (i + 2)));
        let kept = select(high, high_eight, low_eight);
        let received = plane_shuffle_xor(select(high, low_eight, high_eight), 2u32);
        from_low[i] = select(high, received, kept);
        from_high[i] = select(high, kept, received);
    }
    // Neighbours: each keeps its own eight.
    let kept_low = select(odd, from_low[1], from_low[0]);
    let kept_high = select(odd, from_high[1], from_high[0]);
    let received_low = plane_shuffle_xor(select(odd, from_low[0], from_low[1]), 1u32);
    let received_high = plane_shuffle_xor(select(odd, from_high[0], from_high[1]), 1u32);
    let mut words = Vector::<u32, W>::new(select(odd, received_low, kept_low));
    words.insert(1usize, select(odd, kept_low, received_low));
    words.insert(2usize, select(odd, received_high, kept_high));
    words.insert(3usize, select(odd, kept_high, received_high));
    words
}

/// Two sums next to each other, rounded.
#[cube]
fn pair<F: Float>(sums: &Array<f32>, #[comptime] at: usize) -> u32 {
    let size!(P) = 2usize;
    let mut pair = Vector::<f32, P>::new(sums[at]);
    pair.insert(1usize, sums[at + 1]);
    u32::reinterpret(Vector::<F, P>::cast_from(pair))
}
