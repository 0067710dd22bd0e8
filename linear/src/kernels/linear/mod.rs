//! Linear layers of a few rows: matrix-vector products bound by the bytes of the weights.

mod batch;
mod dequantize;
mod finish;
mod gemv;
mod left;
mod matrix;
mod packing;
mod plan;
mod quantized;
mod shape;

use burn::{
    backend::{Dispatch, DispatchTensor},
    tensor::{DType, Device, Tensor, assert_shape},
};

pub(crate) use dequantize::dequantize as launch_dequantize;
pub(crate) use gemv::gemv as launch_gemv;
pub use packing::{PackedWeight, Packing};
pub(crate) use quantized::quantized_gemv as launch_quantized_gemv;
pub use shape::MAX_ROWS;

use super::{
    check::check_dtype,
    device::{is_cube_with, supported},
    extension::LinearOps,
};

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

impl Epilogue {
    /// Weight rows of an output channel.
    pub(crate) fn per_output(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }
}

/// Most rows of `d_input` channels that [`gemv`] takes on a device: more than [`MAX_ROWS`] where it has
/// matrix instructions for the dtype.
pub fn most_rows(device: &Device, dtype: DType, d_input: usize) -> usize {
    let takes = supported(device)
        && is_cube_with(device, |properties| {
            batch::takes(properties, dtype, d_input)
        });
    if takes { batch::MAX_ROWS } else { MAX_ROWS }
}

/// `rows * weight^T`, with an RMSNorm of the rows before it and what follows in the same launch; sums
/// are kept in f32 and rounded once.
///
/// # Shapes
///
/// - rows: `[m, d_input]`, m from 1 to [`most_rows`]
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
    let [_, d_input] = rows.dims();
    let [n, _] = weight.dims();
    assert_shape!(weight, [n, d_input]);
    check_dtype("weights", weight.dtype(), rows.dtype());
    let most = most_rows(&rows.device(), rows.dtype(), d_input);
    let beside = Beside::new(rows, most, norm, n, bias, residual, gated);
    Tensor::from_dispatch(Dispatch::gemv(
        beside.rows,
        beside.gamma,
        weight.into_dispatch(),
        beside.bias,
        beside.residual,
        beside.normed,
        beside.epsilon,
        beside.epilogue,
    ))
}

/// [`gemv`] with weights that are unpacked in registers.
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
/// When shapes or dtypes do not fit together, there are too many rows, or groups are no powers of two
/// from 16.
pub fn quantized_gemv(
    rows: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    weight: PackedWeight,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<2>>,
    gated: bool,
) -> Tensor<2> {
    let packing = weight.packing();
    let [_, d_input] = rows.dims();
    let [n, weight_input] = weight.dims();
    assert_eq!(weight_input, d_input, "inputs of packed weights");
    check_dtype("scales", weight.scales.dtype(), rows.dtype());
    let beside = Beside::new(rows, MAX_ROWS, norm, n, bias, residual, gated);
    let scales = weight.scales.into_dispatch();
    // What is absent is not read.
    let zeros = (weight.zeros).map_or_else(|| scales.clone(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::quantized_gemv(
        beside.rows,
        beside.gamma,
        weight.words.into_dispatch(),
        scales,
        zeros,
        beside.bias,
        beside.residual,
        beside.normed,
        beside.epsilon,
        packing,
        beside.epilogue,
    ))
}

/// The weights, `[d_output, d_input]`, in the dtype of their scales.
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or groups are no powers of two from 16.
pub fn dequantize(weight: PackedWeight) -> Tensor<2> {
    let packing = weight.packing();
    let scales = weight.scales.into_dispatch();
    // What is absent is not read.
    let zeros = (weight.zeros).map_or_else(|| scales.clone(), Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::dequantize(
        weight.words.into_dispatch(),
        scales,
        zeros,
        packing,
    ))
}

/// What a linear layer's kernel takes beside the weights. What is absent is not read, and another
/// tensor stands for it.
struct Beside {
    rows: DispatchTensor,
    gamma: DispatchTensor,
    bias: DispatchTensor,
    residual: DispatchTensor,
    normed: bool,
    epsilon: f32,
    epilogue: Epilogue,
}

impl Beside {
    /// # Panics
    ///
    /// When it does not fit a layer of `n` outputs, or there are more than `most` rows.
    fn new(
        rows: Tensor<2>,
        most: usize,
        norm: Option<(Tensor<1>, f64)>,
        n: usize,
        bias: Option<Tensor<1>>,
        residual: Option<Tensor<2>>,
        gated: bool,
    ) -> Self {
        let [m, d_input] = rows.dims();
        assert!(
            (1..=most).contains(&m) && n > 0 && d_input > 0,
            "rows of a matrix-vector product: expected 1 to {most}, found {m} of {d_input} for {n} \
             outputs"
        );
        assert!(
            !gated || n.is_multiple_of(2),
            "outputs of a gated layer: expected an even number, found {n}"
        );
        let epilogue = Epilogue {
            biased: bias.is_some(),
            gated,
            added: residual.is_some(),
        };
        let columns = n / epilogue.per_output();
        let dtype = rows.dtype();
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
        let rows = rows.into_dispatch();
        Self {
            normed: norm.is_some(),
            epsilon: norm.as_ref().map_or(0.0, |(_, epsilon)| *epsilon as f32),
            gamma: norm.map_or_else(|| rows.clone(), |(gamma, _)| gamma.into_dispatch()),
            bias: bias.map_or_else(|| rows.clone(), Tensor::into_dispatch),
            residual: residual.map_or_else(|| rows.clone(), Tensor::into_dispatch),
            rows,
            epilogue,
        }
    }
}
