//! What the kernels of a linear layer take, as one argument each.

use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

/// Activations, and the norm that comes before the product.
#[derive(CubeType, CubeLaunch)]
pub(super) struct ActivationsArg<F: Float, N: Size> {
    /// `[rows, vectors]`
    pub rows: OwnedTensor<Vector<F, N>>,
    /// Weight of the norm; a placeholder where there is none.
    pub gamma: OwnedTensor<Vector<F, N>>,
    pub epsilon: f32,
}

/// Weights of any form; what a form does not have is a placeholder.
#[derive(CubeType, CubeLaunch)]
pub(super) struct WeightsArg<E: Numeric, W: Size, S: Numeric, G: Size> {
    /// Loads of weights, row after row.
    pub words: OwnedTensor<Vector<E, W>>,
    /// What the groups of packed weights have besides the integers: scales, or the heads of blocks.
    pub heads: OwnedTensor<Vector<S, G>>,
    pub zeros: OwnedTensor<Vector<S, G>>,
}

/// Where the products go, and what the epilogue adds; what it does not add is a placeholder.
#[derive(CubeType, CubeLaunch)]
pub(super) struct OutputArg<F: Float> {
    /// `[d_output]`
    pub bias: OwnedTensor<F>,
    /// `[rows, columns]`
    pub residual: OwnedTensor<F>,
    /// `[rows, columns]`
    pub output: OwnedTensor<F>,
}

/// The tensors of a [`WeightsArg`].
pub(super) struct BoundWeights {
    pub words: CubeTensor,
    pub heads: CubeTensor,
    pub zeros: CubeTensor,
    /// Elements of a head.
    pub head_width: usize,
}

impl BoundWeights {
    /// Packed weights.
    pub(super) fn packed(
        words: CubeTensor,
        heads: CubeTensor,
        zeros: CubeTensor,
        head_width: usize,
    ) -> Self {
        Self {
            words: into_contiguous(words),
            heads: into_contiguous(heads),
            zeros: into_contiguous(zeros),
            head_width,
        }
    }

    /// Weights in an element type, which have no groups.
    pub(super) fn whole(weight: CubeTensor) -> Self {
        let words = into_contiguous(weight);
        Self {
            heads: words.clone(),
            zeros: words.clone(),
            words,
            head_width: 1,
        }
    }

    pub(super) fn into_arg<E: Numeric, W: Size, S: Numeric, H: Size>(
        self,
    ) -> WeightsArgLaunch<E, W, S, H> {
        WeightsArgLaunch::new(
            self.words.into_tensor_arg(),
            self.heads.into_tensor_arg(),
            self.zeros.into_tensor_arg(),
        )
    }
}

/// An [`OutputArg`] of these tensors.
pub(super) fn output_arg<F: Float>(
    bias: CubeTensor,
    residual: CubeTensor,
    output: &CubeTensor,
) -> OutputArgLaunch<F> {
    OutputArgLaunch::new(
        into_contiguous(bias).into_tensor_arg(),
        into_contiguous(residual).into_tensor_arg(),
        output.clone().into_tensor_arg(),
    )
}
