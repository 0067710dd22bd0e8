//! The kernels of the rest of a decode step against plain computations on the host, in every dtype
//! of the device.
//!
//! Runs on the devices that `QUEST_TEST_DEVICES` names.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal"
))]

mod block_linear;
mod decode_state;
mod linear;
mod linear_inputs;
mod matmul;
mod norms;
mod packed_linear;
mod rotate_append;
mod sparse_linear;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn_linear::kernels::{self, device};
use quest_burn_tests::devices::devices;
use rand::{RngExt, rngs::StdRng};

/// Added to the mean of the squares that a norm divides by.
const EPSILON: f64 = 1e-5;

/// CubeCL devices among those that are asked for, and their dtypes.
fn targets() -> Vec<(Device, DType)> {
    let devices = devices().into_iter().map(|test_device| test_device.device);
    let devices = devices.filter(device::supported);
    let targets = devices.flat_map(|device| {
        [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .filter(|&dtype| device::supports(&device, dtype, 8))
            .map(|dtype| (device.clone(), dtype))
            .collect::<Vec<_>>()
    });
    let targets = targets.collect::<Vec<_>>();
    if targets.is_empty() {
        println!("no device with kernels is named: nothing is tested");
    }
    targets
}

/// CubeCL devices with matrix instructions among those that are asked for, and their dtypes.
fn matrix_targets() -> impl Iterator<Item = (Device, DType)> {
    let targets = targets().into_iter();
    targets.filter(|(device, dtype)| {
        kernels::linear::max_rows(device, *dtype, 64) > kernels::linear::MAX_ROWS
    })
}

/// How far a result of this dtype may be off, relative to its size.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        _ => 3e-2,
    }
}

fn tensor<const D: usize>(
    values: &[f32],
    shape: [usize; D],
    dtype: DType,
    device: &Device,
) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), device).cast(dtype)
}

/// Random values that the dtype holds exactly, as a tensor and on the host.
fn random<const D: usize>(
    shape: [usize; D],
    dtype: DType,
    device: &Device,
    rng: &mut StdRng,
) -> (Tensor<D>, Vec<f64>) {
    random_within(2.0, shape, dtype, device, rng)
}

/// As [`random`], of magnitudes below `most`.
fn random_within<const D: usize>(
    most: f32,
    shape: [usize; D],
    dtype: DType,
    device: &Device,
    rng: &mut StdRng,
) -> (Tensor<D>, Vec<f64>) {
    let values = (0..shape.iter().product()).map(|_| rng.random_range(-most..most));
    let tensor = tensor(&values.collect::<Vec<_>>(), shape, dtype, device);
    let values = floats(&tensor);
    (tensor, values)
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    let data = tensor.clone().into_data().convert::<f32>();
    let values = data.try_to_vec::<f32>().unwrap();
    values.into_iter().map(f64::from).collect()
}

fn ints(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]),
        (device, DType::I32),
    )
}

fn read<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().convert::<i32>().try_to_vec().unwrap()
}
