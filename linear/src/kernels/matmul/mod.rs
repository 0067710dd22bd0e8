//! Matrix products of many rows, as prompts have them: by the matrix instructions of NVIDIA's Hopper, by those of its
//! other GPUs from Ampere on or by those of Vulkan where they are, elsewhere by cubek's kernels.

mod bands;
mod choice;
mod cooperative;
mod cubek;
mod launch;
#[cfg(feature = "cuda")]
mod mma;
#[cfg(feature = "cuda")]
mod staged;
#[cfg(feature = "cuda")]
mod warpgroup;

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor, assert_shape},
};

pub use self::choice::{MatmulKernel, matmul_kernels};
pub(super) use self::launch::launch_matmul_rows;
use super::{check::check_dtype, extension::LinearOps};

/// The product of rows with the rows of a weight, by a kernel that shapes and dtype decide.
///
/// Burn measures some twenty candidates for each new shape, which takes seconds in a new process; of
/// them the same few win at the shapes of projections, so that nothing is measured here. On NVIDIA's
/// GPUs from Ampere on, kernels of this crate take f16 and bf16 rows whose channels and outputs are multiples of 8:
/// one on H100 and H200, another one elsewhere.
///
/// # Shapes
///
/// - rows: `[n, d_input]`
/// - weight: `[d_output, d_input]`
/// - output: `[n, d_output]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn matmul_rows(rows: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    product(rows, weight, None)
}

/// [`matmul_rows`] by a kernel of [`matmul_kernels`], whichever would be taken: to test one on a device that has a
/// faster one, and to hold them against one another.
///
/// # Panics
///
/// As [`matmul_rows`], and when the kernel does not take these on their device.
pub fn matmul_rows_by(kernel: MatmulKernel, rows: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    product(rows, weight, Some(kernel))
}

fn product(rows: Tensor<2>, weight: Tensor<2>, kernel: Option<MatmulKernel>) -> Tensor<2> {
    let [_, d_input] = rows.dims();
    let [d_output, _] = weight.dims();
    assert_shape!(weight, [d_output, d_input]);
    check_dtype("weight", weight.dtype(), rows.dtype());
    assert!(
        matches!(rows.dtype(), DType::F32 | DType::F16 | DType::BF16),
        "rows of a product: expected F32, F16 or BF16, found {:?}",
        rows.dtype()
    );
    Tensor::from_dispatch(Dispatch::matmul_rows(
        rows.into_dispatch(),
        weight.into_dispatch(),
        kernel,
    ))
}
