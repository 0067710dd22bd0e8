use cubecl::{
    cmma::{self, Matrix, MatrixLayout},
    prelude::*,
};

use super::{
    super::{
        super::cooperative_matrix::{empty_sums, left_side, right_side},
        bands::tile_of_cube,
    },
    outputs::{place_of_plane, write},
    tiles::Tiles,
};

/// Cubes: tiles of the output.
///
/// In a step a cube multiplies some channels of a tile of rows by those of a tile of weight rows, from shared
/// memory, while those of the next step arrive in registers.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn cooperative_matmul<F: Float, W: Numeric, N: Size>(
    rows: &Tensor<Vector<W, N>>,
    weight: &Tensor<Vector<W, N>>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] tiles: Tiles,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _word_type: ElemType,
) {
    let (first_row, first_column) = tile_of_cube(
        output.shape(0),
        output.shape(1),
        comptime!([tiles.rows, tiles.columns]),
        tiles.band,
    );
    let [fragment_rows, fragment_columns] = comptime!(tiles.fragments());
    let mut left = Shared::<[Vector<W, N>]>::new_slice(tiles.staged(tiles.rows));
    let mut right = Shared::<[Vector<W, N>]>::new_slice(tiles.staged(tiles.columns));

    let mut sums = Sequence::<Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(fragment_rows * fragment_columns) {
        sums.push(empty_sums(tiles.instruction.fragment));
    }
    let mut of_rows = copies_of_unit::<W, N>(rows, first_row, tiles.rows, tiles);
    let mut of_weight = copies_of_unit::<W, N>(weight, first_column, tiles.columns, tiles);
    load::<W, N>(&mut of_rows, rows, 0usize, tiles.rows, tiles);
    load::<W, N>(&mut of_weight, weight, 0usize, tiles.columns, tiles);
    let steps = rows.shape(1).div_ceil(tiles.step);
    for step in 0..steps {
        stage::<W, N>(&mut left, &of_rows, tiles.rows, tiles);
        stage::<W, N>(&mut right, &of_weight, tiles.columns, tiles);
        sync_cube();
        // The next channels are on their way while these are multiplied.
        let next = min(step + 1, steps - 1);
        load::<W, N>(&mut of_rows, rows, next, tiles.rows, tiles);
        load::<W, N>(&mut of_weight, weight, next, tiles.columns, tiles);
        multiply::<F, W, N>(&sums, &left, &right, tiles);
        sync_cube();
    }
    write::<F, N>(&sums, output, first_row, first_column, tiles);
}

/// What a unit copies of each tile of a matrix: from where, and what it has loaded.
#[derive(CubeType)]
struct Copies<W: Numeric, N: Size> {
    from: Array<usize>,
    loaded: Array<Vector<W, N>>,
}

/// The copies of this unit of tiles of `rows` rows; those past the end are others of the matrix.
#[cube]
fn copies_of_unit<W: Numeric, N: Size>(
    matrix: &Tensor<Vector<W, N>>,
    first: usize,
    #[comptime] rows: usize,
    #[comptime] tiles: Tiles,
) -> Copies<W, N> {
    let parts = comptime!(tiles.parts());
    let vectors = matrix.shape(1) / comptime!(tiles.part());
    let loads = comptime!(tiles.loads(rows));
    let mut from = Array::<usize>::new(loads);
    #[unroll]
    for i in 0..loads {
        let at = UNIT_POS as usize + comptime!(i * tiles.units());
        from[i] = (first + at / parts) % matrix.shape(0) * vectors;
    }
    Copies::<W, N> {
        from,
        loaded: Array::new(loads),
    }
}

/// Loads the channels of a step; those past the end are zeros.
#[cube]
fn load<W: Numeric, N: Size>(
    copies: &mut Copies<W, N>,
    matrix: &Tensor<Vector<W, N>>,
    step: usize,
    #[comptime] rows: usize,
    #[comptime] tiles: Tiles,
) {
    let parts = comptime!(tiles.parts());
    let vectors = matrix.shape(1) / comptime!(tiles.part());
    let vector = step * parts + UNIT_POS as usize % parts;
    #[unroll]
    for i in 0..comptime!(tiles.loads(rows)) {
        if comptime!(tiles.whole) {
            copies.loaded[i] = matrix[copies.from[i] + vector];
        } else {
            let inside = vector < vectors;
            let value = matrix[copies.from[i] + select(inside, vector, 0usize)];
            copies.loaded[i] = select(inside, value, Vector::<W, N>::cast_from(0.0f32));
        }
    }
}

/// Puts what was loaded into shared memory.
#[cube]
fn stage<W: Numeric, N: Size>(
    shared: &mut Shared<[Vector<W, N>]>,
    copies: &Copies<W, N>,
    #[comptime] rows: usize,
    #[comptime] tiles: Tiles,
) {
    let parts = comptime!(tiles.parts());
    let stride = comptime!(tiles.stride() / tiles.part());
    #[unroll]
    for i in 0..comptime!(tiles.loads(rows)) {
        let at = UNIT_POS as usize + comptime!(i * tiles.units());
        shared[at / parts * stride + at % parts] = copies.loaded[i];
    }
}

/// Adds the products of a step.
#[cube]
fn multiply<F: Float, W: Numeric, N: Size>(
    sums: &Sequence<Matrix<f32>>,
    left: &Shared<[Vector<W, N>]>,
    right: &Shared<[Vector<W, N>]>,
    #[comptime] tiles: Tiles,
) {
    let [fragment_rows, fragment_columns] = comptime!(tiles.fragments());
    let stride = comptime!(tiles.stride());
    let (row, column) = place_of_plane(tiles);
    let left_at = row * comptime!(stride / tiles.part());
    let right_at = column * comptime!(stride / tiles.part());
    #[unroll]
    for s in 0..comptime!(tiles.step / tiles.instruction.fragment.k) {
        let mut of_rows = Sequence::<Matrix<F>>::new();
        #[unroll]
        for i in 0..fragment_rows {
            let at = left_at
                + comptime!(
                    (i * tiles.instruction.fragment.m * stride + s * tiles.instruction.fragment.k)
                        / tiles.part()
                );
            let mut fragment = left_side::<F>(tiles.instruction.fragment);
            cmma::load(
                &mut fragment,
                &left[at..],
                comptime!((stride / tiles.packed) as u32),
            );
            of_rows.push(fragment);
        }
        #[unroll]
        for j in 0..fragment_columns {
            let at = right_at
                + comptime!(
                    (j * tiles.instruction.fragment.n * stride + s * tiles.instruction.fragment.k)
                        / tiles.part()
                );
            let mut fragment = right_side::<F>(tiles.instruction.fragment, MatrixLayout::ColMajor);
            cmma::load(
                &mut fragment,
                &right[at..],
                comptime!((stride / tiles.packed) as u32),
            );
            #[unroll]
            for i in 0..fragment_rows {
                let sum = sums.index(comptime!(i * fragment_columns + j));
                cmma::execute(of_rows.index(i), &fragment, sum, sum);
            }
        }
    }
}
