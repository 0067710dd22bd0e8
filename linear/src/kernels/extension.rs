use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_cubecl::CubeBackend;

use super::{
    linear::{self, Epilogue, Packing},
    matmul, rms_norm,
};

/// The operations of linear layers as kernels; [`crate::kernels`] says what each does.
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait LinearOps: Backend {
    /// A linear layer of a few rows, and what goes before and follows in the same launch.
    #[fusion(dtype = rows, shape = super::shapes::linear(rows, weight, epilogue))]
    fn gemv(
        rows: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        normed: bool,
        epsilon: f32,
        epilogue: Epilogue,
    ) -> FloatTensor<Self>;

    /// The same with packed weights.
    #[fusion(dtype = rows, shape = super::shapes::linear(rows, words, epilogue))]
    fn quantized_gemv(
        rows: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        normed: bool,
        epsilon: f32,
        packing: Packing,
        epilogue: Epilogue,
    ) -> FloatTensor<Self>;

    /// The weights in the dtype of their scales.
    #[fusion(dtype = scales, shape = super::shapes::unpacked(words, packing))]
    fn dequantize(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self>;

    /// The product of rows with the rows of a weight.
    #[fusion(dtype = rows, shape = burn::tensor::Shape::from([rows[0], weight[0]]))]
    fn matmul_rows(rows: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// RMSNorm of every row.
    #[fusion(dtype = x, shape = x)]
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

impl LinearOps for CubeBackend {
    fn gemv(
        rows: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        normed: bool,
        epsilon: f32,
        epilogue: Epilogue,
    ) -> FloatTensor<Self> {
        linear::launch_gemv(
            rows, gamma, weight, bias, residual, normed, epsilon, epilogue,
        )
    }

    fn quantized_gemv(
        rows: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        normed: bool,
        epsilon: f32,
        packing: Packing,
        epilogue: Epilogue,
    ) -> FloatTensor<Self> {
        linear::launch_quantized_gemv(
            rows, gamma, words, scales, zeros, bias, residual, normed, epsilon, packing, epilogue,
        )
    }

    fn dequantize(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        zeros: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self> {
        linear::launch_dequantize(words, scales, zeros, packing)
    }

    fn matmul_rows(rows: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        matmul::launch_matmul_rows(rows, weight)
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        rms_norm::launch_rms_norm(x, gamma, epsilon)
    }
}
