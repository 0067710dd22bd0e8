use cubecl::prelude::*;

use super::MinMax;
use crate::{
    FixedPoint,
    digest::{KernelDigest, moments::IN_FLIGHT},
};

#[cube]
impl KernelDigest for MinMax {
    fn fold_rows<F: Float, N: Size>(
        keys: &mut Tensor<Vector<F, N>>,
        at: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        // Compared in f32, which holds every key exactly: not every target compares bf16.
        let mut low = Vector::<f32, N>::cast_from(keys[at]);
        let mut high = low;
        let last = n - 1;
        let in_flight = comptime!(IN_FLIGHT.min(page_size));
        let runs = (n + in_flight - 1) / in_flight;
        for run in 0..runs {
            let mut rows = Array::<Vector<F, N>>::new(in_flight);
            #[unroll]
            for i in 0..in_flight {
                // The last key again, where there is none: it changes nothing.
                rows[i] = keys[at + min(run * in_flight + i, last) * row];
            }
            #[unroll]
            for i in 0..in_flight {
                let key = Vector::<f32, N>::cast_from(rows[i]);
                low = min(low, key);
                high = max(high, key);
            }
        }
        (low, high)
    }

    fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>) {
        let zero = Vector::<f32, N>::new(0.0f32);
        (min(q, zero), max(q, zero))
    }

    fn score(product: f32, _squares: f32, #[comptime] _deviations: FixedPoint) -> f32 {
        product
    }
}
