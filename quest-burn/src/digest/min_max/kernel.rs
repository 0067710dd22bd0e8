use cubecl::prelude::*;

use super::MinMax;
use crate::digest::{Deviations, KernelDigest};

#[cube]
impl KernelDigest for MinMax {
    fn merge<N: Size>(
        low: Vector<f32, N>,
        high: Vector<f32, N>,
        other_low: Vector<f32, N>,
        other_high: Vector<f32, N>,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        (min(low, other_low), max(high, other_high))
    }

    fn fold_rows<F: Float, N: Size>(
        keys: &mut Tensor<Vector<F, N>>,
        at: usize,
        row: usize,
        n: usize,
        #[comptime] _page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        let mut low = Vector::<f32, N>::cast_from(keys[at]);
        let mut high = low;
        for i in 1..n {
            let key = Vector::<f32, N>::cast_from(keys[at + i * row]);
            low = min(low, key);
            high = max(high, key);
        }
        (low, high)
    }

    fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>) {
        let zero = Vector::<f32, N>::new(0.0f32);
        (min(q, zero), max(q, zero))
    }

    fn score(product: f32, _squares: f32, #[comptime] _deviations: Deviations) -> f32 {
        product
    }
}
