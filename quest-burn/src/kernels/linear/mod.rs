//! Linear layers of a few rows: matrix-vector products bound by the bytes of the weights.

mod finish;
mod gemv;
mod left;
mod shape;

use burn::{
    backend::Dispatch,
    tensor::{DType, Tensor, assert_shape},
};

pub(crate) use gemv::gemv as launch_gemv;
pub use shape::MAX_ROWS;

use super::check_dtype;
use crate::ops::extension::QuestOps;

/// What becomes of the products of a linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epilogue {
    /// Whether the bias is added.
    pub biased: bool,
    /// Whether the first half of the outputs gates the second: `silu(gate) * up`.
    pub gated: bool,
    /// Whether it is added to a residual.
    pub added: bool,
}

/// `rows * weight^T`, with an RMSNorm of the rows before it and what follows in the same launch; sums
/// are kept in f32 and rounded once.
///
/// # Shapes
///
/// - rows: `[m, d_input]`, m from 1 to [`MAX_ROWS`]
/// - norm: weight, `[d_input]`, and epsilon
/// - weight: `[d_output, d_input]`
/// - bias: `[d_output]`
/// - residual, output: `[m, d_output]`, or half as many columns where `gated`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or there are too many rows.
pub fn gemv(
    rows: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<2>>,
    gated: bool,
) -> Tensor<2> {
    let [m, d_input] = rows.dims();
    let [n, _] = weight.dims();
    assert_shape!(weight, [n, d_input]);
    assert!(
        (1..=MAX_ROWS).contains(&m) && n > 0 && d_input > 0,
        "rows of a matrix-vector product: expected 1 to {MAX_ROWS}, found {m} of {d_input} for \
         {n} outputs"
    );
    assert!(
        !gated || n.is_multiple_of(2),
        "outputs of a gated layer: expected an even number, found {n}"
    );
    let columns = if gated { n / 2 } else { n };
    let dtype = rows.dtype();
    check_dtype("weights", weight.dtype(), dtype);
    if let Some((gamma, _)) = &norm {
        assert_shape!(gamma, [d_input]);
        check_dtype("weight of the norm", gamma.dtype(), dtype);
    }
    if let Some(bias) = &bias {
        assert_shape!(bias, [n]);
        check_dtype("bias", bias.dtype(), dtype);
    }
    if let Some(residual) = &residual {
        assert_shape!(residual, [m, columns]);
        check_dtype("residual", residual.dtype(), dtype);
    }
    assert!(
        matches!(dtype, DType::F32 | DType::F16 | DType::BF16),
        "dtype of a linear layer: expected F32, F16 or BF16, found {dtype:?}"
    );
    let epilogue = Epilogue {
        biased: bias.is_some(),
        gated,
        added: residual.is_some(),
    };
    let rows = rows.into_dispatch();
    let normed = norm.is_some();
    // What is absent is not read.
    let (gamma, epsilon) = match norm {
        Some((gamma, epsilon)) => (gamma.into_dispatch(), epsilon),
        None => (rows.clone(), 0.0),
    };
    let bias = bias.map_or_else(|| rows.clone(), Tensor::into_dispatch);
    let residual = residual.map_or_else(|| rows.clone(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::gemv(
        rows,
        gamma,
        weight.into_dispatch(),
        bias,
        residual,
        normed,
        epsilon as f32,
        epilogue,
    ))
}
