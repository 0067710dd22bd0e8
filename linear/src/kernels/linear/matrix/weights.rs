//! Weights on their way: a lane loads words of other rows than those whose sums it has, so that scales
//! and zero points are loaded apart from them.
//!
//! An instruction takes 16 rows of channels, which are some blocks of fewer weight rows: row `r` of it
//! is a block of weight row `r / chunks`. Which one differs from instruction to instruction, so that
//! each lane has the sums of the same columns in use once.

use cubecl::prelude::*;

use super::{
    super::{super::matrix_instruction::ROWS, args::WeightsArg, load::Loaded},
    shape::{LANES, MatrixShape},
};

/// Which of a segment's blocks this lane has sums of.
#[cube]
pub(super) fn own_chunk(#[comptime] shape: MatrixShape) -> usize {
    UNIT_POS_PLANE as usize % LANES / comptime!(shape.sides())
}

/// Which of a segment's instructions this lane has sums of.
#[cube]
pub(super) fn own_step(#[comptime] shape: MatrixShape) -> usize {
    chunk(own_chunk(shape), shape)
}

/// Which block this lane loads for an instruction.
#[cube]
fn chunk(step: usize, #[comptime] shape: MatrixShape) -> usize {
    let row = UNIT_POS_PLANE as usize / LANES % comptime!(shape.chunks());
    row ^ step
}

/// Which of a cube's 16 weight rows an instruction has for this lane.
#[cube]
pub(super) fn row_of(
    step: usize,
    #[comptime] half: usize,
    #[comptime] shape: MatrixShape,
) -> usize {
    let rows = comptime!(shape.rows());
    let row = UNIT_POS_PLANE as usize / LANES / comptime!(shape.chunks());
    step * rows + comptime!(half * rows / 2) + row
}

/// The weight row that is a cube's `index`-th; past the end the last one, whose sums are not used.
#[cube]
fn weight_row(
    first_output: usize,
    index: usize,
    columns: usize,
    #[comptime] shape: MatrixShape,
) -> usize {
    if comptime!(shape.epilogue.gated) {
        let gates = comptime!(ROWS / 2);
        min(first_output + index % gates, columns - 1) + index / gates * columns
    } else {
        min(first_output + index, columns - 1)
    }
}

/// Loads the words of an instruction into a slot.
#[cube]
pub(super) fn load_words<F: Float, W: Size, H: Size>(
    loaded: &mut Loaded<i32, W, F, H>,
    weights: &WeightsArg<i32, W, F, H>,
    first_output: usize,
    columns: usize,
    segment: usize,
    #[comptime] step: usize,
    #[comptime] slot: usize,
    #[comptime] shape: MatrixShape,
) {
    let chunks = comptime!(shape.chunks());
    let blocks = comptime!(shape.blocks());
    let block = min(segment * chunks + chunk(step, shape), blocks - 1);
    #[unroll]
    for half in 0..2usize {
        let row = weight_row(first_output, row_of(step, half, shape), columns, shape);
        let at = (row * blocks + block) * LANES + UNIT_POS_PLANE as usize % LANES;
        loaded.words[(slot * chunks + step) * 2 + half] = weights.words[at];
    }
}

/// Loads the scales and zero points of a segment into a slot.
#[cube]
pub(super) fn load_scales<F: Float, W: Size, H: Size>(
    loaded: &mut Loaded<i32, W, F, H>,
    weights: &WeightsArg<i32, W, F, H>,
    first_output: usize,
    columns: usize,
    segment: usize,
    #[comptime] slot: usize,
    #[comptime] shape: MatrixShape,
) {
    let blocks = comptime!(shape.blocks());
    let block = min(segment * shape.chunks() + own_chunk(shape), blocks - 1);
    #[unroll]
    for half in 0..2usize {
        let index = row_of(own_step(shape), half, shape);
        let row = weight_row(first_output, index, columns, shape);
        let group = (row * blocks + block) / comptime!(shape.packing.group / shape.block());
        loaded.heads[slot * 2 + half] = weights.heads[group];
        if comptime!(shape.packing.asymmetric) {
            loaded.zeros[slot * 2 + half] = weights.zeros[group];
        }
    }
}

/// Loads a whole segment into a slot.
#[cube]
pub(super) fn load_segment<F: Float, W: Size, H: Size>(
    loaded: &mut Loaded<i32, W, F, H>,
    weights: &WeightsArg<i32, W, F, H>,
    first_output: usize,
    columns: usize,
    segment: usize,
    #[comptime] slot: usize,
    #[comptime] shape: MatrixShape,
) {
    load_scales::<F, W, H>(loaded, weights, first_output, columns, segment, slot, shape);
    #[unroll]
    for step in 0..shape.chunks() {
        load_words::<F, W, H>(
            loaded,
            weights,
            first_output,
            columns,
            segment,
            step,
            slot,
            shape,
        );
    }
}
