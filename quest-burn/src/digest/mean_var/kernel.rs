use cubecl::prelude::*;

use super::MeanVar;
use crate::{
    FixedPoint,
    digest::{KernelDigest, moments::kernel_moments},
};

#[cube]
impl KernelDigest for MeanVar {
    fn fold_rows<F: Float, N: Size>(
        keys: &mut Tensor<Vector<F, N>>,
        at: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        let (mean, variance) = kernel_moments::<F, N>(keys, at, row, n, page_size);
        (mean, variance.sqrt())
    }

    fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>) {
        (q, q * q)
    }

    fn score(product: f32, squares: f32, #[comptime] deviations: FixedPoint) -> f32 {
        product + f32::new(comptime!(deviations.to_f32())) * f32::sqrt(squares)
    }
}
