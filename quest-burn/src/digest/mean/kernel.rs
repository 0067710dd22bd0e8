use cubecl::prelude::*;

use super::Mean;
use crate::{
    FixedPoint,
    digest::{KernelDigest, moments::kernel_moments},
};

#[cube]
impl KernelDigest for Mean {
    fn fold_rows<F: Float, N: Size>(
        keys: &mut Tensor<Vector<F, N>>,
        at: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        kernel_moments::<F, N>(keys, at, row, n, page_size)
    }

    fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>) {
        (q, q)
    }

    fn score(product: f32, _squares: f32, #[comptime] _deviations: FixedPoint) -> f32 {
        product
    }
}
