//! A linear layer of one row by the input channels that matter to it: the weights of the others are not read.

mod choice;
mod kernel;
mod launch;
mod load;
mod shape;

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor, assert_shape},
};

pub(crate) use launch::sparse_gemv as launch_sparse_gemv;

use super::{
    super::{
        check::check_dtype,
        extension::LinearOps,
        operands::{ChannelChoice, Correction, Inputs},
    },
    KernelWeight,
};

/// Weights of a linear layer by input channels, and which of them a row reads.
#[derive(Clone, Debug)]
pub struct ChannelWeight {
    /// `[d_input, d_output]`: in an element type, or in 8 bits with scales in f32 for neighbouring outputs.
    pub weights: KernelWeight,
    /// What a row's values are multiplied by to be scores, `[d_input]` in f32.
    pub norms: Tensor<1>,
    /// The largest score of channels that are skipped.
    pub threshold: f32,
    /// Factors of what is skipped, `[d_input, rank]` and `[rank, d_output]`.
    pub factors: Option<[Tensor<2>; 2]>,
}

impl ChannelWeight {
    /// # Panics
    ///
    /// When shapes or dtypes do not fit together, or to rows of a dtype.
    fn check(&self, dtype: DType) {
        let [d_input, n] = self.weights.dims();
        match &self.weights {
            KernelWeight::Full(weights) => {
                check_dtype("weights by input channels", weights.dtype(), dtype);
            }
            KernelWeight::Groups(weights) => {
                check_dtype("scales of channels", weights.scales.dtype(), DType::F32);
                assert!(
                    weights.bits == 8 && weights.zeros.is_none(),
                    "weights by input channels: expected 8 bits without zero points, found {} bits",
                    weights.bits
                );
            }
            KernelWeight::Blocks(weights) => panic!(
                "weights by input channels: expected them whole or in 8 bits, found {} blocks",
                weights.format()
            ),
        }
        assert_shape!(self.norms, [d_input]);
        check_dtype("norms of channels", self.norms.dtype(), DType::F32);
        if let Some([down, up]) = &self.factors {
            let [_, rank] = down.dims();
            assert!(rank > 0, "factors: expected a rank from 1 on, found 0");
            assert_shape!(down, [d_input, rank]);
            assert_shape!(up, [rank, n]);
            check_dtype("factor from the channels", down.dtype(), dtype);
            check_dtype("factor to the outputs", up.dtype(), dtype);
        }
    }
}

/// A row times the weights of the channels that matter to it, those with `|x| * norm` above the threshold, with an
/// RMSNorm of the row before it. What no number is matters. Skipped channels go through the factors, where there
/// are any. Sums are kept in f32 and rounded once.
///
/// Liu et al., "R-Sparse: Rank-Aware Activation Sparsity for Efficient LLM Inference", ICLR 2025.
///
/// # Shapes
///
/// - row: `[1, d_input]`
/// - norm: weight, `[d_input]`, and epsilon
/// - bias: `[d_output]`
/// - residual, output: `[1, d_output]`, or half as many columns where `gated`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or there are several rows.
pub fn sparse_gemv(
    row: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    weight: ChannelWeight,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<2>>,
    gated: bool,
) -> Tensor<2> {
    let [_, d_input] = row.dims();
    let [weight_input, n] = weight.weights.dims();
    assert_eq!(weight_input, d_input, "input channels of a linear layer");
    weight.check(row.dtype());
    let choice = ChannelChoice {
        norms: weight.norms.into_dispatch(),
        threshold: weight.threshold,
        correction: match weight.factors {
            None => Correction::None,
            Some([down, up]) => Correction::Factors {
                down: down.into_dispatch(),
                up: up.into_dispatch(),
            },
        },
    };
    let inputs = Inputs::new(row, 1, norm, n, bias, residual, gated);
    Tensor::from_dispatch(Dispatch::sparse_gemv(inputs, weight.weights.into(), choice))
}
