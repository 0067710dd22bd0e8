use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_cubecl::CubeBackend;

use crate::kernels::linear::{self, Epilogue, Packing};

/// The operations on packed weights as kernels; [`crate::kernels::linear`] says what each does.
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait QuantizedOps: Backend {
    /// A linear layer of a few rows, and what goes before and follows in the same launch.
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
}

impl QuantizedOps for CubeBackend {
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
}
