//! Numbers as a dtype holds them, and in tensors.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn::digest::DigestKind;
use rand::{Rng, RngExt};

/// Normal numbers as the dtype holds them.
pub(super) fn normal(n: usize, dtype: DType, rng: &mut impl Rng) -> Vec<f32> {
    let numbers: Vec<f32> = (0..n)
        .map(|_| {
            let sum: f32 = (0..6).map(|_| rng.random_range(-1.0f32..1.0)).sum();
            sum / 2f32.sqrt()
        })
        .collect();
    rounded(numbers, dtype)
}

/// Numbers as the dtype holds them.
pub(super) fn rounded(numbers: Vec<f32>, dtype: DType) -> Vec<f32> {
    let n = numbers.len();
    let data = TensorData::new(numbers, [n]).convert_dtype(dtype);
    data.convert::<f32>().try_into_vec().unwrap()
}

/// Numbers in a page's digest of one head.
pub(super) fn digest_len(digest: DigestKind, head_dim: usize) -> usize {
    digest.shape(head_dim).iter().product()
}

pub(super) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().unwrap()
}

pub(super) fn ints<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().convert::<i32>().try_into_vec().unwrap()
}

/// Leaves NaN in memory that the next allocations of up to `n` elements will get.
pub(super) fn poison(n: usize, device: &Device) {
    let buffers: Vec<Tensor<1>> = (0..4)
        .map(|_| Tensor::full([n.max(64)], f32::NAN, (device, DType::F32)))
        .collect();
    device.sync().unwrap();
    drop(buffers);
}
