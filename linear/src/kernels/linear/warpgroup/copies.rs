//! Weights and LHS rows on their way into shared memory.

use cubecl::prelude::*;

use super::{
    super::super::warpgroup::{PARTS, ROW_BYTES, copy, end_copies, place_of_part},
    shape::{StageShape, WIDTH},
};

/// The weight row of a unit's copy: of which output of the turn, and whether it is what a gate gates.
#[cube]
pub(super) fn output_of(line: usize, #[comptime] shape: StageShape) -> (usize, usize) {
    if comptime!(shape.epilogue.gated) {
        (line / 16 * 8 + line % 8, line / 8 % 2)
    } else {
        (line, 0usize.runtime())
    }
}

/// What is copied next: channels, or vectors of them, from `at` on, of the outputs of a turn from `output` on.
#[derive(CubeType)]
pub(super) struct Next {
    pub output: usize,
    pub at: usize,
}

/// Goes on by a stage of so many channels; from the last one to the first of the next so many outputs.
#[cube]
pub(super) fn advance(
    next: &mut Next,
    first: usize,
    end: usize,
    #[comptime] step: usize,
    #[comptime] outputs: usize,
) {
    next.at += step;
    if next.at >= end {
        next.at = first;
        next.output += outputs;
    }
}

/// Begins to copy a stage, as a group of copies: weight rows of outputs before `last_output`, and LHS rows. Past
/// the last vector they are zeros.
#[cube]
pub(super) fn copy_stage<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    next: &Next,
    last_output: usize,
    end: usize,
    stage: u32,
    #[comptime] shape: StageShape,
) {
    // Behind the last turn there is nothing to copy.
    if next.output < last_output {
        let unit = UNIT_POS as usize;
        let part = unit % PARTS;
        let line = unit / PARTS;
        let lines = comptime!(shape.lines());
        let [weight_copies, row_copies] = comptime!(shape.copies());
        let columns = weight.shape(0) / comptime!(shape.epilogue.per_output());
        let vectors = rows.shape(1) / WIDTH;
        let place = place_of_part(line, part) as u32;
        #[unroll]
        for tile in 0..shape.depth {
            let at = next.at + comptime!(tile * PARTS);
            let bytes = select(at < end, 16u32, 0u32);
            let at = select(at < end, at, 0usize) + part;
            let to = stage + comptime!((tile * shape.tile_bytes()) as u32) + place;
            #[unroll]
            for i in 0..weight_copies {
                let (of_turn, gated) = output_of(line + comptime!(i * lines), shape);
                let output = next.output + of_turn;
                if of_turn < comptime!(shape.outputs) && output < last_output {
                    let from = (output + gated * columns) * vectors + at;
                    copy(
                        &weight[from..from + 1],
                        to + comptime!((i * lines * ROW_BYTES) as u32),
                        bytes,
                    );
                }
            }
            let to = to + comptime!(shape.weight_bytes() as u32);
            #[unroll]
            for i in 0..row_copies {
                let row = line + comptime!(i * lines);
                if row < rows.shape(0) {
                    let from = row * vectors + at;
                    copy(
                        &rows[from..from + 1],
                        to + comptime!((i * lines * ROW_BYTES) as u32),
                        bytes,
                    );
                }
            }
        }
    }
    end_copies();
}
