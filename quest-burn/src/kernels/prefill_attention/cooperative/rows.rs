//! The query tokens of a plane: queries and output in matrices whose elements only instructions know,
//! the softmax in shared memory.

use cubecl::{
    cmma::{self, Matrix, MatrixIdent, MatrixLayout},
    prelude::*,
};

use super::{super::super::cooperative_matrix::WIDTH, shape::CooperativeShape, tile::Tile};

/// Below any score.
const NO_SCORE: f32 = -1e30;
/// How far a token's highest score rises above the one that its weights are taken from before its output
/// is rescaled, which takes a way through shared memory. Weights are up to `e^8`, which half precision holds.
const RISE: f32 = 8.0;

/// The state of a plane's tokens, and of the tokens whose softmax a unit shares.
#[derive(CubeType)]
pub(super) struct Rows<F: Float> {
    /// For each fragment of tokens a matrix for each step of channels.
    query: Sequence<Matrix<F>>,
    /// For each fragment of tokens a matrix for each column of channels.
    out: Sequence<Matrix<f32>>,
    /// Of each token of a unit, the score that weights are taken from.
    highest: Array<f32>,
    /// The weights of this unit's keys.
    total: Array<f32>,
}

/// What planes pass between instructions and units.
#[derive(CubeType)]
pub(super) struct Passed<W: Numeric, N: Size> {
    scores: Shared<[Vector<f32, N>]>,
    weights: Shared<[Vector<W, N>]>,
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

#[cube]
fn sums(#[comptime] shape: CooperativeShape) -> Matrix<f32> {
    Matrix::<f32>::from_value(
        MatrixIdent::Accumulator,
        shape.instruction.fragment.m,
        shape.instruction.fragment.n,
        shape.instruction.fragment.k,
        MatrixLayout::Undefined,
        0.0f32,
    )
}

#[cube]
fn left<F: Float>(#[comptime] shape: CooperativeShape) -> Matrix<F> {
    // SAFETY: who takes it loads it whole before it is read.
    unsafe {
        Matrix::<F>::uninitialized(
            MatrixIdent::A,
            shape.instruction.fragment.m,
            shape.instruction.fragment.n,
            shape.instruction.fragment.k,
            MatrixLayout::RowMajor,
        )
    }
}

#[cube]
fn right<F: Float>(#[comptime] shape: CooperativeShape, layout: MatrixLayout) -> Matrix<F> {
    // SAFETY: who takes it loads it whole before it is read.
    unsafe {
        Matrix::<F>::uninitialized(
            MatrixIdent::B,
            shape.instruction.fragment.m,
            shape.instruction.fragment.n,
            shape.instruction.fragment.k,
            layout,
        )
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
        query.push(left::<F>(shape));
    }
    #[unroll]
    for _ in 0..comptime!(shape.fragments * shape.columns()) {
        out.push(sums(shape));
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
            scores.push(sums(shape));
        }
        #[unroll]
        for s in 0..comptime!(shape.steps()) {
            let at = comptime!(
                (c * shape.instruction.fragment.n * stride + s * shape.instruction.fragment.k)
                    / shape.part()
            );
            let mut keys = right::<F>(shape, MatrixLayout::ColMajor);
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
fn pass<N: Size>(
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
fn first_row(#[comptime] shape: CooperativeShape) -> usize {
    UNIT_POS as usize / comptime!(shape.instruction.plane) * comptime!(shape.rows())
}

/// The `r`-th token of this unit, among those of the cube.
#[cube]
fn own_row(#[comptime] r: usize, #[comptime] shape: CooperativeShape) -> usize {
    let lane = UNIT_POS as usize % comptime!(shape.instruction.plane);
    first_row(shape)
        + lane / comptime!(shape.lanes())
        + comptime!(r * shape.instruction.plane / shape.lanes())
}

/// Turns scores into weights, and tells whether a token's output has to be rescaled, by `corrections`.
/// The first token of the cube sees `visible` keys of the tile, each later one a key more; without
/// `masked` all of them see every key.
#[cube]
pub(super) fn weigh<F: Float, W: Numeric, N: Size, P: Size>(
    passed: &mut Passed<W, N>,
    rows: &mut Rows<F>,
    corrections: &mut Array<f32>,
    visible: i32,
    masked: bool,
    scale: f32,
    #[comptime] shape: CooperativeShape,
) -> bool {
    let lanes = comptime!(shape.lanes());
    let own = comptime!(shape.own_scores());
    let packed = comptime!(shape.packed);
    let lane = UNIT_POS as usize % lanes;
    let mut rescale = false;
    #[unroll]
    for r in 0..comptime!(shape.own_rows()) {
        let row = own_row(r, shape);
        let from = row * comptime!(shape.score_stride() / WIDTH);
        let to = row * comptime!(shape.weight_stride() / shape.part()) + lane;
        let visible = visible + row as i32;
        let mut scores = Array::<Vector<f32, N>>::new(own);
        let mut highest = f32::new(NO_SCORE);
        #[unroll]
        for v in 0..own {
            let vector = (lane + comptime!(v / packed * lanes)) * packed + comptime!(v % packed);
            let mut score = passed.scores[from + vector] * Vector::new(scale);
            if masked {
                let key = (vector * WIDTH) as i32;
                #[unroll]
                for i in 0..WIDTH {
                    let seen = key + comptime!(i as i32) < visible;
                    score.insert(i, select(seen, score.extract(i), f32::new(NO_SCORE)));
                }
            }
            #[unroll]
            for i in 0..WIDTH {
                highest = max(highest, score.extract(i));
            }
            scores[v] = score;
        }
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            highest = max(highest, plane_shuffle_xor(highest, comptime!(1u32 << step)));
        }
        let before = rows.highest[r];
        let rises = highest > before + f32::new(RISE);
        let highest = select(rises, highest, before);
        // Before the first tile there is nothing to rescale.
        rescale = rescale || (rises && before > f32::new(NO_SCORE));
        let correction = f32::exp(before - highest);
        let mut total = rows.total[r] * correction;
        #[unroll]
        for v in 0..own {
            let mut score = scores[v];
            #[unroll]
            for i in 0..WIDTH {
                let weight = f32::exp(score.extract(i) - highest);
                total += weight;
                score.insert(i, weight);
            }
            scores[v] = score;
        }
        #[unroll]
        for p in 0..comptime!(own / packed) {
            passed.weights[to + comptime!(p * lanes)] =
                words::<F, W, N, P>(&scores, comptime!(p * packed), packed);
        }
        rows.highest[r] = highest;
        rows.total[r] = total;
        corrections[r] = correction;
    }
    rescale
}

/// Weights from the `first` vector on as a vector of words.
#[cube]
fn words<F: Float, W: Numeric, N: Size, P: Size>(
    weights: &Array<Vector<f32, N>>,
    #[comptime] first: usize,
    #[comptime] packed: usize,
) -> Vector<W, N> {
    if comptime!(packed == 1) {
        Vector::<W, N>::cast_from(weights[first])
    } else {
        let mut words = Vector::<W, N>::cast_from(0u32);
        #[unroll]
        for i in 0..WIDTH {
            let vector = weights[comptime!(first + i / 2)];
            let mut pair = Vector::<f32, P>::new(vector.extract(comptime!(i % 2 * 2)));
            pair.insert(1usize, vector.extract(comptime!(i % 2 * 2 + 1)));
            let word = u32::reinterpret(Vector::<F, P>::cast_from(pair));
            words.insert(i, W::cast_from(word));
        }
        words
    }
}

/// Multiplies the output of this plane's tokens by `corrections`.
#[cube]
pub(super) fn rescale<F: Float, W: Numeric, N: Size>(
    passed: &mut Passed<W, N>,
    rows: &mut Rows<F>,
    corrections: &Array<f32>,
    #[comptime] shape: CooperativeShape,
) {
    let first = first_row(shape);
    let stride = comptime!(shape.score_stride());
    let vectors = comptime!(shape.instruction.fragment.n / WIDTH);
    let lanes = comptime!(shape.lanes());
    let lane = UNIT_POS as usize % lanes;
    #[unroll]
    for c in 0..comptime!(shape.columns()) {
        #[unroll]
        for f in 0..comptime!(shape.fragments) {
            let out = rows.out.index(comptime!(f * shape.columns() + c));
            pass(&mut passed.scores, out, first, f, 0usize, shape);
        }
        sync_plane();
        #[unroll]
        for r in 0..comptime!(shape.own_rows()) {
            let at = own_row(r, shape) * comptime!(stride / WIDTH);
            #[unroll]
            for v in 0..comptime!(vectors.div_ceil(lanes)) {
                let vector = lane + comptime!(v * lanes);
                if vector < vectors {
                    let sum = passed.scores[at + vector];
                    passed.scores[at + vector] = sum * Vector::new(corrections[r]);
                }
            }
        }
        sync_plane();
        #[unroll]
        for f in 0..comptime!(shape.fragments) {
            let row = first + comptime!(f * shape.instruction.fragment.m);
            let at = row * comptime!(stride / WIDTH);
            cmma::load_with_layout(
                rows.out.index_mut(comptime!(f * shape.columns() + c)),
                &passed.scores[at..],
                stride as u32,
                MatrixLayout::RowMajor,
            );
        }
        sync_plane();
    }
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
            let mut weight = left::<F>(shape);
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
            let mut values = right::<F>(shape, MatrixLayout::RowMajor);
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

/// Writes the attention of this plane's tokens, whose rows begin at `first_query` and are `first` tokens
/// into the step: what it is for `gained` tokens, zeros for the rest.
#[cube]
pub(super) fn write<F: Float, W: Numeric, N: Size>(
    rows: &Rows<F>,
    passed: &mut Passed<W, N>,
    output: &mut Tensor<Vector<F, N>>,
    first_query: usize,
    first: usize,
    gained: usize,
    #[comptime] shape: CooperativeShape,
) {
    let tokens = output.shape(2);
    let stride = comptime!(shape.score_stride());
    let vectors = comptime!(shape.instruction.fragment.n / WIDTH);
    let lanes = comptime!(shape.lanes());
    let lane = UNIT_POS as usize % lanes;
    let mut factors = Array::<f32>::new(comptime!(shape.own_rows()));
    #[unroll]
    for r in 0..comptime!(shape.own_rows()) {
        let mut total = rows.total[r];
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            total += plane_shuffle_xor(total, comptime!(1u32 << step));
        }
        factors[r] = 1.0f32 / total;
    }
    #[unroll]
    for c in 0..comptime!(shape.columns()) {
        #[unroll]
        for f in 0..comptime!(shape.fragments) {
            let out = rows.out.index(comptime!(f * shape.columns() + c));
            pass(&mut passed.scores, out, first_row(shape), f, 0usize, shape);
        }
        sync_plane();
        #[unroll]
        for r in 0..comptime!(shape.own_rows()) {
            let row = own_row(r, shape);
            let token = first + row;
            let to =
                (first_query + token) * comptime!(shape.head_dim / WIDTH) + comptime!(c * vectors);
            #[unroll]
            for v in 0..comptime!(vectors.div_ceil(lanes)) {
                let vector = lane + comptime!(v * lanes);
                if vector < vectors && token < tokens {
                    let sum = passed.scores[row * comptime!(stride / WIDTH) + vector];
                    let sum = sum * Vector::new(factors[r]);
                    // A query that is no token may be no number.
                    let sum = select(token < gained, sum, Vector::new(0.0f32));
                    output[to + vector] = Vector::<F, N>::cast_from(sum);
                }
            }
        }
        sync_plane();
    }
}
