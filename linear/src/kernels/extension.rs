use burn::{
    backend::{Backend, backend_extension, tensor::FloatTensor},
    tensor::DType,
};
use burn_cubecl::CubeBackend;

use super::{
    linear,
    matmul::{self, MatmulKernel},
    operands::{ChannelChoice, Inputs, Weights},
    rms_norm,
};

/// The operations of linear layers as kernels; [`crate::kernels`] says what each does.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait LinearOps: Backend {
    /// A linear layer of a few rows, and what goes before and follows in the same launch.
    #[fusion(meta = |inputs, weights| super::shapes::outputs(inputs, weights))]
    fn gemv(
        #[extension_type] inputs: Inputs<Self>,
        #[extension_type] weights: Weights<Self>,
    ) -> FloatTensor<Self>;

    /// A linear layer of one row by the input channels that matter to it, and what goes before and follows.
    #[fusion(meta = |inputs, weights, _choice| super::shapes::sparse_outputs(inputs, weights))]
    fn sparse_gemv(
        #[extension_type] inputs: Inputs<Self>,
        #[extension_type] weights: Weights<Self>,
        #[extension_type] choice: ChannelChoice<Self>,
    ) -> FloatTensor<Self>;

    /// Weights made whole in a dtype.
    #[fusion(meta = |weights, dtype| super::shapes::widened(weights, *dtype))]
    fn widen(#[extension_type] weights: Weights<Self>, dtype: DType) -> FloatTensor<Self>;

    /// The product of rows with the rows of a weight, by a kernel if one is named.
    #[fusion(dtype = rows, shape = burn::tensor::Shape::from([rows[0], weight[0]]))]
    fn matmul_rows(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        kernel: Option<MatmulKernel>,
    ) -> FloatTensor<Self>;

    /// RMSNorm of every row.
    #[fusion(dtype = x, shape = x)]
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

impl LinearOps for CubeBackend {
    fn gemv(inputs: Inputs<Self>, weights: Weights<Self>) -> FloatTensor<Self> {
        linear::launch_gemv(inputs, weights)
    }

    fn sparse_gemv(
        inputs: Inputs<Self>,
        weights: Weights<Self>,
        choice: ChannelChoice<Self>,
    ) -> FloatTensor<Self> {
        linear::launch_sparse_gemv(inputs, weights, choice)
    }

    fn widen(weights: Weights<Self>, dtype: DType) -> FloatTensor<Self> {
        linear::launch_widen(weights, dtype)
    }

    fn matmul_rows(
        rows: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        kernel: Option<MatmulKernel>,
    ) -> FloatTensor<Self> {
        matmul::launch_matmul_rows(rows, weight, kernel)
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        rms_norm::launch_rms_norm(x, gamma, epsilon)
    }
}
