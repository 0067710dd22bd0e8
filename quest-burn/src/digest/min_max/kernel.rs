use cubecl::prelude::*;

use super::MinMax;
use crate::{
    FixedPoint,
    digest::{KernelDigest, moments::IN_FLIGHT},
    row_load::{RowLoad, RowsArg, widened},
};

#[cube]
impl KernelDigest for MinMax {
    fn fold_rows<L: RowLoad, E: Numeric, W: Size, N: Size>(
        keys: &RowsArg<E, W>,
        first: usize,
        column: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        // Compared in f32, which holds every key exactly: not every target compares bf16.
        let scale = L::scale::<E, W>(keys, first);
        let mut low = widened::<L, E, W, N>(keys.rows[first * row + column], scale);
        let mut high = low;
        let last = n - 1;
        let in_flight = comptime!(IN_FLIGHT.min(page_size));
        let runs = (n + in_flight - 1) / in_flight;
        for run in 0..runs {
            let mut loads = Array::<Vector<E, W>>::new(in_flight);
            let mut scales = Array::<f32>::new(in_flight);
            #[unroll]
            for i in 0..in_flight {
                // The last key again, where there is none: it changes nothing.
                let key = first + min(run * in_flight + i, last);
                loads[i] = keys.rows[key * row + column];
                scales[i] = L::scale::<E, W>(keys, key);
            }
            #[unroll]
            for i in 0..in_flight {
                let key = widened::<L, E, W, N>(loads[i], scales[i]);
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
