//! Tiles on their way into shared memory.

use cubecl::prelude::*;

use super::{super::super::ptx::copy, Staging, WIDTH};

/// Where a unit copies from and to.
#[derive(CubeType)]
pub(in super::super) struct Copies {
    /// Which of the parts of a row.
    part: usize,
    /// Parts of all channels.
    parts: usize,
    rows: Array<usize>,
    weight: Array<usize>,
    to: u32,
}

/// What a unit copies of each of its rows in a step.
#[derive(CubeType)]
pub(in super::super) struct Part {
    first: usize,
    bytes: u32,
}

/// The copies of this unit for the tiles that begin at `first_row` and `first_column`, into stages from
/// `base` on.
#[cube]
pub(in super::super) fn copies_of_unit<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    first_row: usize,
    first_column: usize,
    base: u32,
    #[comptime] staging: Staging,
) -> Copies {
    let unit = UNIT_POS as usize;
    let part = unit % staging.parts;
    let line = unit / staging.parts;
    let [row_copies, weight_copies] = comptime!(staging.copies());
    let lines = comptime!(staging.lines());
    let place = place_of_part(line, part, staging.parts);
    Copies {
        part,
        parts: rows.shape(1) / WIDTH,
        rows: starts::<F, N>(rows, first_row + line, part, lines, row_copies),
        weight: starts::<F, N>(weight, first_column + line, part, lines, weight_copies),
        to: base + place as u32,
    }
}

/// Where a part of a row lies in a tile whose rows have four or eight, in bytes: eight rows of a part are in
/// different banks, and so are the parts that a few units copy together. With eight parts this is the order that
/// warpgroup instructions ask for.
#[cube]
pub(in super::super) fn place_of_part(row: usize, part: usize, #[comptime] parts: usize) -> usize {
    let turn = row / comptime!(8 / parts) % parts;
    row * comptime!(parts * 16) + (part ^ turn) * 16
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

/// Whether there are channels in a step.
#[cube]
pub(in super::super) fn has_step(
    copies: &Copies,
    step: usize,
    #[comptime] staging: Staging,
) -> bool {
    step * staging.parts < copies.parts
}

/// What is copied in a step; past the last channel nothing is read, and zeros are written.
#[cube]
pub(in super::super) fn part_of_step(
    copies: &Copies,
    step: usize,
    #[comptime] staging: Staging,
) -> Part {
    let first = step * staging.parts;
    let within = copies.part + first < copies.parts;
    Part {
        first: select(within, first, 0usize),
        bytes: select(within, 16u32, 0u32),
    }
}

/// Begins to copy the rows of a step to a stage.
#[cube]
pub(in super::super) fn copy_rows<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    copies: &Copies,
    part: &Part,
    stage: u32,
    #[comptime] staging: Staging,
) {
    let to = copies.to + stage * comptime!(staging.stage_bytes() as u32);
    let [n, _] = comptime!(staging.copies());
    copy_lines::<F, N>(rows, &copies.rows, part, to, n, staging);
}

/// Begins to copy the weight rows of a step to a stage.
#[cube]
pub(in super::super) fn copy_weight<F: Float, N: Size>(
    weight: &Tensor<Vector<F, N>>,
    copies: &Copies,
    part: &Part,
    stage: u32,
    #[comptime] staging: Staging,
) {
    let to = copies.to
        + stage * comptime!(staging.stage_bytes() as u32)
        + comptime!(staging.row_tile() as u32);
    let [_, n] = comptime!(staging.copies());
    copy_lines::<F, N>(weight, &copies.weight, part, to, n, staging);
}

#[cube]
fn copy_lines<F: Float, N: Size>(
    matrix: &Tensor<Vector<F, N>>,
    starts: &Array<usize>,
    part: &Part,
    to: u32,
    #[comptime] n: usize,
    #[comptime] staging: Staging,
) {
    let line_bytes = comptime!((staging.lines() * staging.row_bytes()) as u32);
    #[unroll]
    for i in 0..n {
        let from = starts[i] + part.first;
        copy(
            &matrix[from..from + 1],
            to + comptime!(i as u32 * line_bytes),
            part.bytes,
        );
    }
}
