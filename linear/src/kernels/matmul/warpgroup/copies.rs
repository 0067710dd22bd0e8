//! Tiles on their way into shared memory.

use cubecl::prelude::*;

use super::{
    super::super::warpgroup::{PARTS, ROW_BYTES, copy, end_copies, place_of_part},
    tiles::{Tiles, WIDTH},
};

/// Where a unit copies from and to.
#[derive(CubeType)]
pub(super) struct Copies {
    /// Which of the parts of a row.
    part: usize,
    /// Parts of all channels.
    parts: usize,
    rows: Array<usize>,
    weight: Array<usize>,
    to: u32,
}

/// The copies of this unit for the tiles that begin at `first_row` and `first_column`, into stages from
/// `base` on.
#[cube]
pub(super) fn copies_of_unit<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    first_row: usize,
    first_column: usize,
    base: u32,
    #[comptime] tiles: Tiles,
) -> Copies {
    let unit = UNIT_POS as usize;
    let part = unit % PARTS;
    let line = unit / PARTS;
    let [row_copies, weight_copies] = comptime!(tiles.copies());
    let lines = comptime!(tiles.lines());
    let place = place_of_part(line, part);
    Copies {
        part,
        parts: rows.shape(1) / WIDTH,
        rows: starts::<F, N>(rows, first_row + line, part, lines, row_copies),
        weight: starts::<F, N>(weight, first_column + line, part, lines, weight_copies),
        to: base + place as u32,
    }
}

/// Where a part of every so many rows begins. Past the end rows begin anew, so that all are not the same:
/// that would take longer than rows of their own.
#[cube]
fn starts<F: Float, N: Size>(
    matrix: &Tensor<Vector<F, N>>,
    first: usize,
    part: usize,
    #[comptime] lines: usize,
    #[comptime] n: usize,
) -> Array<usize> {
    let stride = matrix.stride(0) / WIDTH;
    let height = matrix.shape(0);
    let mut starts = Array::<usize>::new(n);
    #[unroll]
    for i in 0..n {
        starts[i] = (first + comptime!(i * lines)) % height * stride + part;
    }
    starts
}

/// Begins to copy the channels of a step to a stage, as a group of copies; past the last channel they are
/// zeros, past the last step nothing is copied.
#[cube]
pub(super) fn copy_step<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    copies: &Copies,
    step: usize,
    stage: u32,
    #[comptime] tiles: Tiles,
) {
    let [row_copies, weight_copies] = comptime!(tiles.copies());
    let line_bytes = comptime!((tiles.lines() * ROW_BYTES) as u32);
    let first = step * PARTS;
    if first < copies.parts {
        let within = copies.part + first < copies.parts;
        let bytes = select(within, 16u32, 0u32);
        let first = select(within, first, 0usize);
        let to = copies.to + stage * comptime!(tiles.stage_bytes() as u32);
        #[unroll]
        for i in 0..row_copies {
            let from = copies.rows[i] + first;
            copy(
                &rows[from..from + 1],
                to + comptime!(i as u32 * line_bytes),
                bytes,
            );
        }
        let to = to + comptime!(tiles.row_tile() as u32);
        #[unroll]
        for i in 0..weight_copies {
            let from = copies.weight[i] + first;
            copy(
                &weight[from..from + 1],
                to + comptime!(i as u32 * line_bytes),
                bytes,
            );
        }
    }
    end_copies();
}
