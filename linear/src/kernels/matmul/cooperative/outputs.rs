//! Where the tiles of the output lie, and how sums get there.

use cubecl::{
    cmma::{self, Matrix, MatrixLayout},
    prelude::*,
};

use super::{super::super::cooperative_matrix::WIDTH, tiles::Tiles};

/// Writes the sums of this plane, a fragment at a time through shared memory, which knows rows and columns.
#[cube]
pub(super) fn write<F: Float, N: Size>(
    sums: &Sequence<Matrix<f32>>,
    output: &mut Tensor<Vector<F, N>>,
    first_row: usize,
    first_column: usize,
    #[comptime] tiles: Tiles,
) {
    let [fragment_rows, fragment_columns] = comptime!(tiles.fragments());
    let [m, n] = comptime!([tiles.instruction.fragment.m, tiles.instruction.fragment.n]);
    let vectors = comptime!(n / WIDTH);
    let planes = comptime!(tiles.planes[0] * tiles.planes[1]);
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(comptime!(planes * m * vectors));
    let first = UNIT_POS as usize / comptime!(tiles.instruction.plane) * comptime!(m * vectors);
    let lane = UNIT_POS as usize % comptime!(tiles.instruction.plane);
    let (row, column) = place_of_plane(tiles);
    let n_rows = output.shape(0);
    let row_vectors = output.shape(1) / comptime!(WIDTH);
    #[unroll]
    for i in 0..fragment_rows {
        #[unroll]
        for j in 0..fragment_columns {
            cmma::store(
                &mut shared[first..],
                sums.index(comptime!(i * fragment_columns + j)),
                n as u32,
                MatrixLayout::RowMajor,
            );
            sync_plane();
            #[unroll]
            for v in 0..comptime!((m * vectors).div_ceil(tiles.instruction.plane)) {
                let at = lane + comptime!(v * tiles.instruction.plane);
                let to_row = first_row + row + comptime!(i * m) + at / vectors;
                let to = (first_column + column) / comptime!(WIDTH)
                    + comptime!(j * vectors)
                    + at % vectors;
                if at < comptime!(m * vectors) && to_row < n_rows && to < row_vectors {
                    output[to_row * row_vectors + to] =
                        Vector::<F, N>::cast_from(shared[first + at]);
                }
            }
            sync_plane();
        }
    }
}

/// The first row and column of this plane, within the tile.
#[cube]
pub(super) fn place_of_plane(#[comptime] tiles: Tiles) -> (usize, usize) {
    let plane = UNIT_POS as usize / comptime!(tiles.instruction.plane);
    (
        plane / comptime!(tiles.planes[1]) * comptime!(tiles.rows / tiles.planes[0]),
        plane % comptime!(tiles.planes[1]) * comptime!(tiles.columns / tiles.planes[1]),
    )
}
