//! LHS rows (activations), a block of channels at a time, in the order in which lanes take them.

use cubecl::prelude::*;

use super::{
    super::super::matrix_instruction::{COLUMNS, PLANE},
    shape::{BatchShape, LANES, WIDTH},
};

/// Two blocks of LHS rows in shared memory, of which one is read while the other is written: for every
/// four vectors of a row, and for every eight rows, a vector for each lane of a plane.
#[derive(CubeType)]
pub(super) struct Lhs<F: Float, N: Size> {
    pub vectors: Shared<[Vector<F, N>]>,
}

#[cube]
pub(super) fn empty_lhs<F: Float, N: Size>(#[comptime] shape: BatchShape) -> Lhs<F, N> {
    Lhs::<F, N> {
        vectors: Shared::new_slice(comptime!(2 * shape.lhs_vectors())),
    }
}

/// The vector of a row that a unit's `i`-th load of a block is.
#[cube]
fn column(first: usize, #[comptime] i: usize, #[comptime] shape: BatchShape) -> usize {
    let run = UNIT_POS as usize / PLANE + comptime!(i * shape.planes());
    first + run / shape.groups * LANES + UNIT_POS_PLANE as usize % LANES
}

/// Loads a unit's part of the block from vector `first` on.
#[cube]
pub(super) fn load_lhs<F: Float, N: Size>(
    loaded: &mut Array<Vector<F, N>>,
    rows: &Tensor<Vector<F, N>>,
    first: usize,
    end: usize,
    #[comptime] shape: BatchShape,
) {
    let vectors = rows.shape(1) / WIDTH;
    let loads = comptime!(shape.loads());
    #[unroll]
    for i in 0..loads {
        let run = UNIT_POS as usize / PLANE + comptime!(i * shape.planes());
        let row = run % shape.groups * COLUMNS + UNIT_POS_PLANE as usize / LANES;
        let row = min(row, rows.shape(0) - 1);
        loaded[i] = rows[row * vectors + min(column(first, i, shape), end - 1)];
    }
}

/// Puts what was loaded of the block from vector `first` on into shared memory, zeros past the end.
#[cube]
pub(super) fn store_lhs<F: Float, N: Size>(
    lhs: &mut Lhs<F, N>,
    loaded: &Array<Vector<F, N>>,
    buffer: usize,
    first: usize,
    end: usize,
    #[comptime] shape: BatchShape,
) {
    let vectors = comptime!(shape.lhs_vectors());
    let loads = comptime!(shape.loads());
    let zero = Vector::<F, N>::new(F::new(0.0));
    #[unroll]
    for i in 0..loads {
        let at = UNIT_POS as usize + comptime!(i * shape.units());
        let value = select(column(first, i, shape) < end, loaded[i], zero);
        if at < vectors {
            lhs.vectors[buffer * vectors + at] = value;
        }
    }
}
