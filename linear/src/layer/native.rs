//! Layers on the Flex backend: products by [`crate::native`], and what goes before and
//! follows.

use burn::{
    nn::RmsNorm,
    tensor::{DType, Int, Tensor},
};
use rayon::prelude::*;

use super::{LinearWeight, QuantizedWeight};
use crate::{
    flex::{floats, is_contiguous, primitive, runs_on, tensor},
    native::{Groups, Weights, product},
    rms_norm,
};

/// Outputs from which on threads share what follows the products.
const WORTH_THREADS: usize = 1 << 15;

/// Whether this code multiplies rows with such weights.
pub(super) fn takes(weight: &LinearWeight, rows: &Tensor<2>) -> bool {
    rows.dims()[0] > 0 && runs_on(&rows.device()) && is_float(rows.dtype()) && reads(weight)
}

fn reads(weight: &LinearWeight) -> bool {
    match weight {
        LinearWeight::Full(weight) => {
            runs_on(&weight.device()) && is_float(weight.dtype()) && is_contiguous(weight)
        }
        LinearWeight::Quantized(weight) => {
            let group = weight.group();
            cfg!(target_endian = "little")
                && runs_on(&weight.scales().device())
                && weight.words().dtype() == DType::I32
                && is_contiguous(weight.words())
                && group.is_multiple_of(32)
        }
        LinearWeight::Blocks(weight) => weight.blocks().is_some(),
        LinearWeight::Stacked(weights) => weights.iter().all(reads),
    }
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// A layer's outputs.
pub(super) struct Layer<'a> {
    pub weight: &'a LinearWeight,
    pub bias: Option<&'a Tensor<1>>,
    pub norm: Option<&'a RmsNorm>,
    pub residual: Option<&'a Tensor<2>>,
    /// Whether the first half of the outputs gates the second.
    pub gated: bool,
}

impl Layer<'_> {
    /// Applies it to rows of which there is one at least; sums are kept in f32 and rounded once.
    pub(super) fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let (dtype, device) = (rows.dtype(), rows.device());
        let [m, d_input] = rows.dims();
        let [n, weight_input] = self.weight.dims();
        assert_eq!(d_input, weight_input, "input channels of a linear layer");
        let rows = match self.norm {
            Some(norm) => rms_norm(norm, rows),
            None => rows,
        };
        let mut sums = products(self.weight, &floats(rows), d_input);
        if let Some(bias) = self.bias {
            let bias = floats(bias.clone());
            each_row(&mut sums, n, |_, row| {
                for (sum, bias) in row.iter_mut().zip(&bias) {
                    *sum += bias;
                }
            });
        }
        let mut n = n;
        if self.gated {
            n /= 2;
            let mut gated = vec![0.0; m * n];
            each_row(&mut gated, n, |i, row| {
                let (gate, up) = sums[2 * i * n..][..2 * n].split_at(n);
                for ((output, gate), up) in row.iter_mut().zip(gate).zip(up) {
                    *output = gate / (1.0 + (-gate).exp()) * up;
                }
            });
            sums = gated;
        }
        if let Some(residual) = self.residual {
            burn::tensor::assert_shape!(residual, [m, n]);
            let residual = floats(residual.clone());
            each_row(&mut sums, n, |i, row| {
                for (sum, residual) in row.iter_mut().zip(&residual[i * n..]) {
                    *sum += residual;
                }
            });
        }
        tensor(sums, [m, n], &device).cast(dtype)
    }
}

/// Calls `run` with every row of `n` numbers and its index.
fn each_row(rows: &mut [f32], n: usize, run: impl Fn(usize, &mut [f32]) + Sync) {
    if rows.len() < WORTH_THREADS || rows.len() == n {
        let rows = rows.chunks_exact_mut(n).enumerate();
        rows.for_each(|(i, row)| run(i, row));
    } else {
        let rows = rows.par_chunks_exact_mut(n).enumerate();
        rows.for_each(|(i, row)| run(i, row));
    }
}

/// `[m, d_output]`
fn products(weight: &LinearWeight, rows: &[f32], d_input: usize) -> Vec<f32> {
    match weight {
        LinearWeight::Full(weight) => full(weight, rows, d_input),
        LinearWeight::Quantized(weight) => quantized(weight, rows, d_input),
        LinearWeight::Blocks(weight) => {
            let weights = Weights::Blocks {
                format: weight.format(),
                bytes: (weight.blocks()).expect("the caller asks whether blocks are in memory"),
            };
            product(rows, d_input, weights)
        }
        LinearWeight::Stacked(weights) => {
            let parts = weights.iter().map(|weight| {
                let part = products(weight, rows, d_input);
                (weight.dims()[0], part)
            });
            let parts: Vec<_> = parts.collect();
            let m = rows.len() / d_input;
            let mut stacked = Vec::new();
            for row in 0..m {
                for (n, part) in &parts {
                    stacked.extend_from_slice(&part[row * n..][..*n]);
                }
            }
            stacked
        }
    }
}

fn full(weight: &Tensor<2>, rows: &[f32], d_input: usize) -> Vec<f32> {
    let weight = primitive(weight.clone());
    let contiguous = "the caller asks whether weights are contiguous";
    let weights = match weight.dtype() {
        DType::F16 => Weights::F16(weight.as_slice().expect(contiguous)),
        DType::BF16 => Weights::BF16(weight.as_slice().expect(contiguous)),
        _ => Weights::F32(weight.as_slice().expect(contiguous)),
    };
    product(rows, d_input, weights)
}

fn quantized(weight: &QuantizedWeight, rows: &[f32], d_input: usize) -> Vec<f32> {
    let words: Tensor<2, Int> = weight.words().clone();
    let words = primitive(words);
    let words = words.as_slice::<i32>();
    let scales = floats(weight.scales().clone());
    let zeros = weight.zeros().map(|zeros| floats(zeros.clone()));
    let weights = Weights::Groups(Groups {
        bits: weight.config().bits,
        group: weight.group(),
        bytes: bytemuck::cast_slice(words.expect("the caller asks whether words are contiguous")),
        scales: &scales,
        zeros: zeros.as_deref(),
    });
    product(rows, d_input, weights)
}
