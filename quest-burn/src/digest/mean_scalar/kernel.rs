use cubecl::prelude::*;

use super::MeanScalar;
use crate::{
    FixedPoint,
    digest::{KernelDigest, moments::kernel_moments},
    row_load::{RowLoad, RowsArg},
};

#[cube]
impl KernelDigest for MeanScalar {
    fn fold_rows<L: RowLoad, E: Numeric, W: Size, N: Size>(
        keys: &RowsArg<E, W>,
        first: usize,
        column: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        kernel_moments::<L, E, W, N>(keys, first, column, row, n, page_size)
    }

    fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>) {
        (q, q)
    }

    fn score(product: f32, _squares: f32, #[comptime] _deviations: FixedPoint) -> f32 {
        product
    }
}
