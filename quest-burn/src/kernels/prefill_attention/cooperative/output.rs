//! The output of a plane's tokens on its way through shared memory: rescaled, and written.

use cubecl::{
    cmma::{self, MatrixLayout},
    prelude::*,
};

use super::{
    super::super::cooperative_matrix::WIDTH,
    rows::{Passed, Rows, first_row, own_row, pass},
    shape::CooperativeShape,
};

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
