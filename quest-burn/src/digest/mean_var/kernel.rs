use cubecl::prelude::*;

use super::MeanVar;
use crate::{
    FixedPoint,
    digest::{KernelDigest, moments::kernel_moments},
    row_load::{RowLoad, RowsArg},
};

#[cube]
impl KernelDigest for MeanVar {
    fn fold_rows<L: RowLoad, E: Numeric, W: Size, N: Size>(
        keys: &RowsArg<E, W>,
        first: usize,
        column: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        let (mean, variance) = kernel_moments::<L, E, W, N>(keys, first, column, row, n, page_size);
        (mean, variance.sqrt())
    }

    fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>) {
        (q, q * q)
    }

    fn score(product: f32, squares: f32, #[comptime] deviations: FixedPoint) -> f32 {
        product + f32::new(comptime!(deviations.to_f32())) * f32::sqrt(squares)
    }
}
