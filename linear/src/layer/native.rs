//! Layers on the Flex backend: products by [`crate::native`], and what goes before and
//! follows.

use burn::{
    backend::flex::FlexTensor,
    nn::RmsNorm,
    tensor::{DType, Int, Tensor},
};
use half::{bf16, f16};
use rayon::prelude::*;

use super::{LinearWeight, QuantizedWeight, RowRounding, sparse};
use crate::{
    blocks::BlockFormat,
    flex::{floats, is_contiguous, primitive, runs_on, tensor},
    native::{Groups, MANY_ROWS, Weights, rounded_off, side_by_side, stacked_product},
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
        LinearWeight::Sparse(weight) => sparse::native::reads(weight),
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
    pub rounding: RowRounding,
}

impl Layer<'_> {
    /// Applies it to rows of which there is one at least; sums are kept in f32 and rounded once.
    pub(super) fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let (dtype, device) = (rows.dtype(), rows.device());
        let [m, d_input] = rows.dims();
        let [n, weight_input] = self.weight.dims();
        assert_eq!(d_input, weight_input, "input channels of a linear layer");
        let rows = match self.norm {
            Some(norm) if m < MANY_ROWS => normed(norm, rows, dtype),
            Some(norm) => floats(rms_norm(norm, rows)),
            None => floats(rows),
        };
        let mut sums = match (self.rounding, self.weight) {
            (RowRounding::Sixteen, weight) if m < MANY_ROWS && has_integers(weight) => {
                // A row and what its rounding leaves off, one after the other, by the same pass over weights.
                let mut pairs = rows;
                pairs.extend_from_slice(&rounded_off(&pairs, d_input));
                let mut sums = products(self.weight, &pairs, d_input);
                let left_off = sums.split_off(m * n);
                for (sum, left_off) in sums.iter_mut().zip(&left_off) {
                    *sum += left_off;
                }
                sums
            }
            _ => products(self.weight, &rows, d_input),
        };
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

/// What [`rms_norm`] makes of a few rows, in one pass: as tensors, its operations would take longer than a small
/// product.
fn normed(norm: &RmsNorm, rows: Tensor<2>, dtype: DType) -> Vec<f32> {
    let gamma = floats(norm.gamma.val());
    let mut rows = floats(rows);
    let rounded = match dtype {
        DType::F16 => |x: f32| f16::from_f32(x).to_f32(),
        DType::BF16 => |x: f32| bf16::from_f32(x).to_f32(),
        _ => |x: f32| x,
    };
    for row in rows.chunks_exact_mut(gamma.len()) {
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let rms = (squares / gamma.len() as f32 + norm.epsilon as f32).sqrt();
        for (x, gamma) in row.iter_mut().zip(&gamma) {
            *x = rounded(rounded(*x / rms) * gamma);
        }
    }
    rows
}

/// `[m, d_output]`
fn products(weight: &LinearWeight, rows: &[f32], d_input: usize) -> Vec<f32> {
    match weight {
        LinearWeight::Sparse(weight) => sparse::native::products(weight, rows),
        LinearWeight::Stacked(parts) if parts.iter().any(is_sparse) => {
            let parts: Vec<_> = (parts.iter())
                .map(|part| (part.dims()[0], products(part, rows, d_input)))
                .collect();
            side_by_side(&parts, rows.len() / d_input)
        }
        _ => {
            let mut lent = Vec::new();
            lend(weight, &mut lent);
            let weights: Vec<_> = lent.iter().map(Lent::weights).collect();
            stacked_product(rows, d_input, &weights)
        }
    }
}

/// Whether rows are rounded to 8 bits for a product with them.
fn has_integers(weight: &LinearWeight) -> bool {
    match weight {
        LinearWeight::Quantized(_) => true,
        LinearWeight::Blocks(weight) => weight.format().is_integers(),
        LinearWeight::Full(_) | LinearWeight::Sparse(_) => false,
        LinearWeight::Stacked(parts) => parts.iter().any(has_integers),
    }
}

fn is_sparse(weight: &LinearWeight) -> bool {
    match weight {
        LinearWeight::Sparse(_) => true,
        LinearWeight::Stacked(parts) => parts.iter().any(is_sparse),
        _ => false,
    }
}

/// The parts of weights, lent to a product.
#[allow(clippy::large_enum_variant, reason = "a product is lent a few of them")]
enum Lent<'a> {
    Full(FlexTensor),
    Quantized {
        weight: &'a QuantizedWeight,
        words: FlexTensor,
        scales: FlexTensor,
        zeros: Option<FlexTensor>,
    },
    Blocks {
        format: BlockFormat,
        bytes: &'a [u8],
    },
}

fn lend<'a>(weight: &'a LinearWeight, lent: &mut Vec<Lent<'a>>) {
    match weight {
        LinearWeight::Full(weight) => lent.push(Lent::Full(primitive(weight.clone()))),
        LinearWeight::Quantized(weight) => {
            let words: Tensor<2, Int> = weight.words().clone();
            let floats =
                |numbers: &Tensor<2>| primitive(numbers.clone().cast(DType::F32)).to_contiguous();
            lent.push(Lent::Quantized {
                weight,
                words: primitive(words),
                scales: floats(weight.scales()),
                zeros: weight.zeros().map(floats),
            });
        }
        LinearWeight::Blocks(weight) => lent.push(Lent::Blocks {
            format: weight.format(),
            bytes: (weight.blocks()).expect("the caller asks whether blocks are in memory"),
        }),
        LinearWeight::Stacked(weights) => {
            for weight in weights {
                lend(weight, lent);
            }
        }
        LinearWeight::Sparse(_) => unreachable!("products of sparse weights are made apart"),
    }
}

impl Lent<'_> {
    fn weights(&self) -> Weights<'_> {
        let contiguous = "the caller asks whether weights are contiguous";
        match self {
            Self::Full(weight) => match weight.dtype() {
                DType::F16 => Weights::F16(weight.as_slice().expect(contiguous)),
                DType::BF16 => Weights::BF16(weight.as_slice().expect(contiguous)),
                _ => Weights::F32(weight.as_slice().expect(contiguous)),
            },
            Self::Quantized {
                weight,
                words,
                scales,
                zeros,
            } => {
                let words = words.as_slice::<i32>().expect(contiguous);
                let zeros = zeros.as_ref();
                Weights::Groups(Groups {
                    bits: weight.config().bits,
                    group: weight.group(),
                    bytes: bytemuck::cast_slice(words),
                    scales: scales.as_slice().expect("they were made contiguous"),
                    zeros: zeros.map(|zeros| zeros.as_slice().expect("as scales were")),
                })
            }
            Self::Blocks { format, bytes } => Weights::Blocks {
                format: *format,
                bytes,
            },
        }
    }
}
