//! The query tokens of a plane: queries and output in matrices whose elements only instructions know, and their
//! products with keys and values.

use cubecl::{
    cmma::{self, Matrix, MatrixLayout},
    prelude::*,
};

use super::{
    super::super::cooperative_matrix::{WIDTH, empty_sums, left_side, right_side},
    shape::CooperativeShape,
    tile::Tile,
};

/// Below any score.
pub(super) const NO_SCORE: f32 = -1e30;

/// The state of a plane's tokens, and of the tokens whose softmax a unit shares.
#[derive(CubeType)]
pub(super) struct Rows<F: Float> {
    /// For each fragment of tokens a matrix for each step of channels.
    query: Sequence<Matrix<F>>,
    /// For each fragment of tokens a matrix for each column of channels.
    pub out: Sequence<Matrix<f32>>,
    /// Of each token of a unit, the score that weights are taken from.
    pub highest: Array<f32>,
    /// The weights of this unit's keys.
    pub total: Array<f32>,
}

/// What planes pass between instructions and units.
#[derive(CubeType)]
pub(super) struct Passed<W: Numeric, N: Size> {
    pub scores: Shared<[Vector<f32, N>]>,
    pub weights: Shared<[Vector<W, N>]>,
}

#[cube]
pub(super) fn nothing_passed<W: Numeric, N: Size>(
    #[comptime] shape: CooperativeShape,
) -> Passed<W, N> {
    Passed::<W, N> {
        scores: Shared::new_slice(comptime!(shape.tokens() * shape.score_stride() / WIDTH)),
        weights: Shared::new_slice(comptime!(
            shape.tokens() * shape.weight_stride() / shape.part()
        )),
    }
}

/// Tokens that have seen no key.
#[cube]
pub(super) fn start_rows<F: Float>(#[comptime] shape: CooperativeShape) -> Rows<F> {
    let mut query = Sequence::<Matrix<F>>::new();
    let mut out = Sequence::<Matrix<f32>>::new();
    let own = comptime!(shape.own_rows());
    #[unroll]
    for _ in 0..comptime!(shape.fragments * shape.steps()) {
        query.push(left_side::<F>(shape.instruction.fragment));
    }
    #[unroll]
    for _ in 0..comptime!(shape.fragments * shape.columns()) {
        out.push(empty_sums(shape.instruction.fragment));
    }
    let mut highest = Array::<f32>::new(own);
    let mut total = Array::<f32>::new(own);
    #[unroll]
    for r in 0..own {
        highest[r] = f32::new(NO_SCORE);
        total[r] = f32::new(0.0);
    }
    Rows::<F> {
        query,
        out,
        highest,
        total,
    }
}

/// Takes the queries of this plane from those of the cube from `first` on, which lie where keys will be.
#[cube]
pub(super) fn take_queries<F: Float, W: Numeric, N: Size>(
    rows: &mut Rows<F>,
    tile: &Tile<W, N>,
    #[comptime] first: usize,
    #[comptime] shape: CooperativeShape,
) {
    let plane = UNIT_POS as usize / comptime!(shape.instruction.plane);
    #[unroll]
    for f in 0..comptime!(shape.fragments) {
        let row = plane * comptime!(shape.rows()) + comptime!(f * shape.instruction.fragment.m);
        if row >= first && row < comptime!(first + shape.keys) {
            #[unroll]
            for s in 0..comptime!(shape.steps()) {
                let at = (row - first) * comptime!(shape.stride() / shape.part())
                    + comptime!(s * shape.instruction.fragment.k / shape.part());
                cmma::load(
                    rows.query.index_mut(comptime!(f * shape.steps() + s)),
                    &tile.keys[at..],
                    comptime!((shape.stride() / shape.packed) as u32),
                );
            }
        }
    }
}

/// Writes the scores of this plane's tokens with a tile's keys.
#[cube]
pub(super) fn score<F: Float, W: Numeric, N: Size>(
    passed: &mut Passed<W, N>,
    rows: &Rows<F>,
    tile: &Tile<W, N>,
    #[comptime] shape: CooperativeShape,
) {
    let first = first_row(shape);
    let stride = comptime!(shape.stride());
    #[unroll]
    for c in 0..comptime!(shape.keys / shape.instruction.fragment.n) {
        let mut scores = Sequence::<Matrix<f32>>::new();
        #[unroll]
        for _ in 0..comptime!(shape.fragments) {
            scores.push(empty_sums(shape.instruction.fragment));
        }
        #[unroll]
        for s in 0..comptime!(shape.steps()) {
            let at = comptime!(
                (c * shape.instruction.fragment.n * stride + s * shape.instruction.fragment.k)
                    / shape.part()
            );
            let mut keys = right_side::<F>(shape.instruction.fragment, MatrixLayout::ColMajor);
            cmma::load(
                &mut keys,
                &tile.keys[at..],
                comptime!((stride / shape.packed) as u32),
            );
            #[unroll]
            for f in 0..comptime!(shape.fragments) {
                let sum = scores.index(f);
                cmma::execute(
                    rows.query.index(comptime!(f * shape.steps() + s)),
                    &keys,
                    sum,
                    sum,
                );
            }
        }
        #[unroll]
        for f in 0..comptime!(shape.fragments) {
            pass(&mut passed.scores, scores.index(f), first, f, c, shape);
        }
    }
}

/// Writes a matrix to the scores of a fragment of tokens, `column` columns of matrices from their first.
#[cube]
pub(super) fn pass<N: Size>(
    scores: &mut Shared<[Vector<f32, N>]>,
    matrix: &Matrix<f32>,
    first_row: usize,
    #[comptime] fragment: usize,
    #[comptime] column: usize,
    #[comptime] shape: CooperativeShape,
) {
    let stride = comptime!(shape.score_stride());
    let row = first_row + comptime!(fragment * shape.instruction.fragment.m);
    let at =
        row * comptime!(stride / WIDTH) + comptime!(column * shape.instruction.fragment.n / WIDTH);
    cmma::store(
        &mut scores[at..],
        matrix,
        stride as u32,
        MatrixLayout::RowMajor,
    );
}

/// The first token of this plane, among those of the cube.
#[cube]
pub(super) fn first_row(#[comptime] shape: CooperativeShape) -> usize {
    UNIT_POS as usize / comptime!(shape.instruction.plane) * comptime!(shape.rows())
}

/// The `r`-th token of this unit, among those of the cube.
#[cube]
pub(super) fn own_row(#[comptime] r: usize, #[comptime] shape: CooperativeShape) -> usize {
    let lane = UNIT_POS as usize % comptime!(shape.instruction.plane);
    first_row(shape)
        + lane / comptime!(shape.lanes())
        + comptime!(r * shape.instruction.plane / shape.lanes())
}

/// Adds the weighted values of a tile.
#[cube]
pub(super) fn add_values<F: Float, W: Numeric, N: Size>(
    rows: &mut Rows<F>,
    passed: &Passed<W, N>,
    tile: &Tile<W, N>,
    #[comptime] shape: CooperativeShape,
) {
    let first = first_row(shape);
    let stride = comptime!(shape.stride());
    let weight_stride = comptime!(shape.weight_stride());
    #[unroll]
    for s in 0..comptime!(shape.keys / shape.instruction.fragment.k) {
        let mut weights = Sequence::<Matrix<F>>::new();
        #[unroll]
        for f in 0..comptime!(shape.fragments) {
            let row = first + comptime!(f * shape.instruction.fragment.m);
            let at = row * comptime!(weight_stride / shape.part())
                + comptime!(s * shape.instruction.fragment.k / shape.part());
            let mut weight = left_side::<F>(shape.instruction.fragment);
            cmma::load(
                &mut weight,
                &passed.weights[at..],
                comptime!((weight_stride / shape.packed) as u32),
            );
            weights.push(weight);
        }
        #[unroll]
        for c in 0..comptime!(shape.columns()) {
            let at = comptime!(
                (s * shape.instruction.fragment.k * stride + c * shape.instruction.fragment.n)
                    / shape.part()
            );
            let mut values = right_side::<F>(shape.instruction.fragment, MatrixLayout::RowMajor);
            cmma::load(
                &mut values,
                &tile.values[at..],
                comptime!((stride / shape.packed) as u32),
            );
            #[unroll]
            for f in 0..comptime!(shape.fragments) {
                let sum = rows.out.index(comptime!(f * shape.columns() + c));
                cmma::execute(weights.index(f), &values, sum, sum);
            }
        }
    }
}
