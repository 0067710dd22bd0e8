//! RMSNorm.

mod kernel;

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor, assert_shape},
};

pub(super) use self::kernel::launch_rms_norm;
pub use self::kernel::scaled;
use super::{check::check_dtype, extension::LinearOps};

/// RMSNorm of every row, in f32 and rounded once before the weight.
///
/// # Shapes
///
/// - x, output: `[rows, d_model]`
/// - gamma: `[d_model]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [rows, d_model] = x.dims();
    assert_shape!(gamma, [d_model]);
    check_dtype("weight of the norm", gamma.dtype(), x.dtype());
    assert!(
        matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) && rows > 0 && d_model > 0,
        "input of the norm: expected rows in F32, F16 or BF16, found {:?} in {:?}",
        x.dims(),
        x.dtype()
    );
    Tensor::from_dispatch(Dispatch::rms_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        epsilon as f32,
    ))
}
