//! Words and LHS rows on their way into shared memory.

use cubecl::prelude::*;

use super::{
    super::{
        super::super::warpgroup::{PARTS, ROW_BYTES, copy, end_copies, place_of_part},
        copies::{Next, output_of},
        shape::WIDTH,
    },
    shape::PackedShape,
};

/// Where copy `part` of a weight row lies: with runs two by two in 128 bytes, those of every other row are swapped,
/// so that the lanes that read together do so in different banks.
#[cube]
pub(super) fn place(row: usize, part: usize, #[comptime] shape: PackedShape) -> usize {
    if comptime!(shape.runs % 2 == 0) {
        part ^ (row % 2 * 4)
    } else {
        part
    }
}

/// Begins to copy a stage, as a group of copies: weight rows of outputs before `last_output`, and LHS rows. Past
/// the last channel they are zeros.
#[cube]
pub(super) fn copy_stage<F: Float, N: Size, W: Size>(
    rows: &Tensor<Vector<F, N>>,
    words: &Tensor<Vector<i32, W>>,
    next: &Next,
    last_output: usize,
    columns: usize,
    end: usize,
    stage: u32,
    #[comptime] shape: PackedShape,
) {
    // Behind the last turn there is nothing to copy.
    if next.output < last_output {
        let unit = UNIT_POS as usize;
        let per_copy = comptime!(128 / shape.packing.bits);
        let channels = rows.shape(1);
        let lines = comptime!(shape.lines());
        let parts = comptime!(shape.parts());
        let part = unit % parts;
        let line = unit / parts;
        let weight_copies = comptime!(shape.weight_copies());
        let at = next.at + part * per_copy;
        let bytes = select(at < end, 16u32, 0u32);
        let at = select(at < end, at, 0usize) / per_copy;
        let place = (line * comptime!(shape.row_bytes()) + place(line, part, shape) * 16) as u32;
        #[unroll]
        for i in 0..weight_copies {
            let (of_turn, gated) = output_of(line + comptime!(i * lines), shape.stages);
            let output = next.output + of_turn;
            if of_turn < comptime!(shape.stages.outputs) && output < last_output {
                let from = (output + gated * columns) * (channels / per_copy) + at;
                copy(
                    &words[from..from + 1],
                    stage + place + comptime!((i * lines * shape.row_bytes()) as u32),
                    bytes,
                );
            }
        }

        let part = unit % PARTS;
        let line = unit / PARTS;
        let lines = comptime!(shape.units() / PARTS);
        let row_copies = comptime!(shape.stages.lhs_rows.div_ceil(lines));
        let place = place_of_part(line, part) as u32;
        #[unroll]
        for tile in 0..comptime!(shape.tiles()) {
            let at = next.at + comptime!(tile * PARTS * WIDTH);
            let bytes = select(at < end, 16u32, 0u32);
            let at = select(at < end, at, 0usize) / WIDTH + part;
            let to = stage
                + place
                + comptime!((shape.weight_bytes() + tile * shape.tile_bytes()) as u32);
            #[unroll]
            for i in 0..row_copies {
                let row = line + comptime!(i * lines);
                if row < rows.shape(0) {
                    let from = row * (channels / WIDTH) + at;
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
