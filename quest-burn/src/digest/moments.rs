//! Mean and variance of a page's keys, channel by channel, in the order of the rows and about the first
//! of them.

use burn::tensor::Tensor;

/// `[n_pages, heads, rows, head_dim]` -> mean and variance, `[n_pages, heads, 1, head_dim]`.
pub(super) fn moments(keys: &Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [_, _, n, _] = keys.dims();
    let row = |i: usize| keys.clone().slice_dim(2, i..i + 1);
    let first = row(0);
    let none = first.zeros_like();
    let (sum, squares) = (1..n).fold((none.clone(), none), |(sum, squares), i| {
        let key = row(i) - first.clone();
        (sum + key.clone(), squares + key.clone() * key)
    });
    let offset = sum.clone() / n as f32;
    let variance = (squares - sum * offset.clone()) / n as f32;
    (first + offset, variance.clamp_min(0.0))
}

/// Mean and variance of a channel of `keys`, `[rows, head_dim]`, are given to `each`.
#[cfg(feature = "flex")]
pub(super) fn for_each_channel(
    keys: &[f32],
    head_dim: usize,
    mut each: impl FnMut(usize, f32, f32),
) {
    let first = &keys[..head_dim];
    let mut sums = vec![0.0f32; head_dim];
    let mut squares = vec![0.0f32; head_dim];
    for key in keys.chunks_exact(head_dim).skip(1) {
        let sums = sums.iter_mut().zip(&mut squares);
        for ((sum, square), (key, first)) in sums.zip(key.iter().zip(first)) {
            let key = key - first;
            *sum += key;
            *square += key * key;
        }
    }
    let n = (keys.len() / head_dim) as f32;
    for channel in 0..head_dim {
        let offset = sums[channel] / n;
        let variance = (squares[channel] - sums[channel] * offset) / n;
        each(channel, first[channel] + offset, variance.max(0.0));
    }
}

#[cfg(feature = "cube")]
pub(super) use cube::{IN_FLIGHT, kernel_moments};

#[cfg(feature = "cube")]
mod cube {
    use cubecl::prelude::*;

    use crate::row_load::{RowLoad, RowsArg, widened};

    /// Rows that a unit loads before it needs the first of them.
    pub(crate) const IN_FLIGHT: usize = 8;

    /// Mean and variance of the channels of a unit's load over `n` keys of a page.
    #[cube]
    pub(crate) fn kernel_moments<L: RowLoad, E: Numeric, W: Size, N: Size>(
        keys: &RowsArg<E, W>,
        first: usize,
        column: usize,
        row: usize,
        n: usize,
        #[comptime] page_size: usize,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        let scale = L::scale::<E, W>(keys, first);
        let first_key = widened::<L, E, W, N>(keys.rows[first * row + column], scale);
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut squares = Vector::<f32, N>::new(0.0f32);
        let last = n - 1;
        let in_flight = comptime!(IN_FLIGHT.min(page_size));
        let runs = (n + in_flight - 1) / in_flight;
        for run in 0..runs {
            let mut loads = Array::<Vector<E, W>>::new(in_flight);
            let mut scales = Array::<f32>::new(in_flight);
            #[unroll]
            for i in 0..in_flight {
                // Rows past the last key may hold anything.
                let key = first + min(run * in_flight + i, last);
                loads[i] = keys.rows[key * row + column];
                scales[i] = L::scale::<E, W>(keys, key);
            }
            #[unroll]
            for i in 0..in_flight {
                let counts = select(run * in_flight + i < n, 1.0f32, 0.0f32);
                let key = widened::<L, E, W, N>(loads[i], scales[i]) - first_key;
                let key = key * Vector::<f32, N>::new(counts);
                sum += key;
                squares += key * key;
            }
        }
        let n = Vector::<f32, N>::new(f32::cast_from(n as u32));
        let offset = sum / n;
        let variance = (squares - sum * offset) / n;
        let zero = Vector::<f32, N>::new(0.0f32);
        (first_key + offset, max(variance, zero))
    }
}
