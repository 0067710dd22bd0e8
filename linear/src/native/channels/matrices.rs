//! Products of many rows with every channel: weights are widened some channels at a time.

use rayon::prelude::*;

use super::{Channels, centred};
use crate::native::floats::Float;

/// `rows * weights` with every channel.
///
/// # Shapes
///
/// - rows: `[m, d_input]`
/// - output: `[m, d_output]`
///
/// # Panics
///
/// When the sizes do not fit together.
pub fn channel_product(rows: &[f32], [d_input, n]: [usize; 2], weights: Channels<'_>) -> Vec<f32> {
    let m = rows.len() / d_input;
    let mut output = vec![0.0; m * n];
    let mut product = Product {
        rows,
        d_input,
        m,
        n,
        output: &mut output,
    };
    match weights {
        Channels::F32(weights) => product.add(0, weights),
        Channels::F16(weights) => product.widened(|i, output| widen(weights, i, n, output)),
        Channels::BF16(weights) => product.widened(|i, output| widen(weights, i, n, output)),
        Channels::Int8 {
            bytes,
            group,
            scales,
        } => product.widened(|channel, output| {
            let bytes = bytes[channel * n..][..n].chunks_exact(group);
            let scales = &scales[channel * (n / group)..];
            for ((output, bytes), scale) in output.chunks_exact_mut(group).zip(bytes).zip(scales) {
                for (output, &byte) in output.iter_mut().zip(bytes) {
                    *output = centred(byte) * scale;
                }
            }
        }),
    }
    output
}

fn widen<F: Float>(weights: &[F], channel: usize, n: usize, output: &mut [f32]) {
    for (output, weight) in output.iter_mut().zip(&weights[channel * n..][..n]) {
        *output = weight.float();
    }
}

/// Bytes of weights that are widened at a time.
const WIDENED: usize = 1 << 22;

struct Product<'a> {
    rows: &'a [f32],
    d_input: usize,
    m: usize,
    n: usize,
    output: &'a mut [f32],
}

impl Product<'_> {
    /// Widens some channels at a time, and adds what they give.
    fn widened(&mut self, widen: impl Fn(usize, &mut [f32]) + Sync) {
        let at_once = (WIDENED / size_of::<f32>() / self.n.max(1)).clamp(1, self.d_input);
        let mut block = vec![0.0; at_once * self.n];
        for first in (0..self.d_input).step_by(at_once) {
            let channels = at_once.min(self.d_input - first);
            let block = &mut block[..channels * self.n];
            (block.par_chunks_exact_mut(self.n).enumerate())
                .for_each(|(i, channel)| widen(first + i, channel));
            self.add(first, block);
        }
    }

    /// Adds the products of the channels from `first` on.
    fn add(&mut self, first: usize, weights: &[f32]) {
        let channels = weights.len() / self.n;
        assert!(
            channels * self.n == weights.len()
                && first + channels <= self.d_input
                && self.rows.len() == self.m * self.d_input,
            "weights: expected {} channels of {} outputs, found {} from {first} on",
            self.d_input,
            self.n,
            weights.len()
        );
        let (d_input, n) = (self.d_input as isize, self.n as isize);
        // SAFETY: the rows are [m, d_input] and have channels from `first` on as many as there are weight
        // rows of n, which were asserted above; the output is [m, n].
        unsafe {
            gemm::gemm(
                self.m,
                self.n,
                channels,
                self.output.as_mut_ptr(),
                1,
                n,
                true,
                self.rows.as_ptr().add(first),
                1,
                d_input,
                weights.as_ptr(),
                1,
                n,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    }
}
