//! Tensors without gaps between rows. CUDA pitches the rows of some tensors; a reshaped line has
//! none.

use burn::tensor::{
    DType, Device, Int, Tensor, TensorData,
    kind::{Basic, Numeric},
};

/// The tensor without gaps between its rows.
pub fn contiguous<const D: usize, K: Basic>(tensor: Tensor<D, K>) -> Tensor<D, K> {
    let shape = tensor.dims();
    tensor
        .reshape([shape.iter().product::<usize>()])
        .reshape(shape)
}

/// Zeros.
pub(crate) fn zeros<const D: usize, K: Numeric>(
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D, K> {
    Tensor::<1, K>::zeros([shape.iter().product::<usize>()], (device, dtype)).reshape(shape)
}

/// Integers from the host, in i32.
pub(crate) fn ints<const D: usize>(
    values: Vec<i32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    let line = TensorData::new(values, [shape.iter().product::<usize>()]);
    Tensor::<1, Int>::from_data(line, (device, DType::I32)).reshape(shape)
}
