//! Random tensors, reading them back, and comparisons that NaN does not pass.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{RngExt, rngs::StdRng};

/// Values evenly spread over -2..2.
pub fn random<const D: usize>(shape: [usize; D], device: &Device, rng: &mut StdRng) -> Tensor<D> {
    drawn(shape, device, &mut || rng.random_range(-2.0f32..2.0))
}

/// Values that are drawn one by one.
pub fn drawn<const D: usize>(
    shape: [usize; D],
    device: &Device,
    draw: &mut dyn FnMut() -> f32,
) -> Tensor<D> {
    let values = (0..shape.iter().product()).map(|_| draw());
    Tensor::from_data(TensorData::new(values.collect::<Vec<_>>(), shape), device)
}

/// NaN everywhere.
pub fn poison<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::full(shape, f32::NAN, device)
}

/// The elements of a tensor, row-major.
///
/// # Panics
///
/// When they cannot be read back.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().cast(DType::F32).into_data();
    data.try_to_vec().expect("the tensor was cast to f32")
}

/// The elements of a tensor in f64, as vectors of the last axis.
pub fn rows<const D: usize>(tensor: &Tensor<D>) -> Vec<Vec<f64>> {
    let width = tensor.dims()[D - 1];
    let values = values(tensor)
        .into_iter()
        .map(f64::from)
        .collect::<Vec<_>>();
    values.chunks(width).map(<[f64]>::to_vec).collect()
}

/// How far results may be apart that are rounded to `dtype` after sums in another order: by one
/// number of half precision, as a [`relative_error`].
///
/// # Panics
///
/// For other dtypes than those of caches.
pub fn tolerance_of(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        other => panic!("f32, f16 or bf16 was expected, found {other:?}"),
    }
}

/// `|found - expected|` in units of `1 + |expected|`; infinite for anything that is not a number.
pub fn relative_error(found: f64, expected: f64) -> f64 {
    let error = (found - expected).abs() / (1.0 + expected.abs());
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Asserts that every element is within `tolerance * (1 + |expected|)`.
///
/// # Panics
///
/// Naming the worst element, when one is not, or when the lengths differ.
pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let errors = found
        .iter()
        .zip(expected)
        .map(|(&f, &e)| relative_error(f, e));
    let Some((worst, error)) = errors.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return;
    };
    assert!(
        error <= tolerance,
        "{what}: element {worst} of {} is {}, expected {} (error {error:.2e}, tolerance \
         {tolerance:.0e})",
        found.len(),
        found[worst],
        expected[worst]
    );
}

/// Asserts that at least 99 % of the elements are within `tolerance * (1 + |expected|)`, for
/// results that depend on a choice of pages, where rounding may turn a tie the other way. The
/// others must still be numbers.
///
/// # Panics
///
/// Naming the worst element, when more are not, or when the lengths differ.
pub fn assert_mostly_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let errors = found
        .iter()
        .zip(expected)
        .map(|(&f, &e)| relative_error(f, e));
    let errors = errors.collect::<Vec<_>>();
    let numbers = errors.iter().filter(|error| error.is_finite()).count();
    let close = errors.iter().filter(|&&error| error <= tolerance).count();
    let worst = (0..errors.len()).max_by(|&a, &b| errors[a].total_cmp(&errors[b]));
    let worst = worst.expect("there are elements to compare");
    let report = format!(
        "{what}: {close} of {} within {tolerance:.0e}, {numbers} of them numbers; the worst, at \
         {worst}, is {}, expected {} (error {:.2e})",
        errors.len(),
        found[worst],
        expected[worst],
        errors[worst]
    );
    println!("{report}");
    assert!(
        numbers == errors.len() && close * 100 >= errors.len() * 99,
        "{report}"
    );
}
