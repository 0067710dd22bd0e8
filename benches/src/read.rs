//! From the device to the host.

use burn::tensor::{Int, Tensor};

use crate::BenchError;

/// The elements of a tensor, row-major.
pub(crate) fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, BenchError> {
    let values = tensor.try_into_data()?.convert::<f32>().try_to_vec();
    Ok(values.expect("converted to f32 one line above"))
}

/// The elements of a tensor, row-major.
pub(crate) fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Result<Vec<i32>, BenchError> {
    let values = tensor.try_into_data()?.convert::<i32>().try_to_vec();
    Ok(values.expect("converted to i32 one line above"))
}
