//! Linear layers of a few rows: matrix-vector products bound by the bytes of the weights.

mod args;
mod batch;
mod batched;
mod channels;
mod epilogue;
mod gemv;
mod load;
mod matrix;
mod normed;
mod packing;
mod plan;
mod segments;
mod shape;
mod sink;
#[cfg(feature = "cuda")]
mod warpgroup;
mod widen;

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor},
};
use cubecl::ir::DeviceProperties;

pub(crate) use channels::launch_sparse_gemv;
pub use channels::{ChannelWeight, sparse_gemv};
pub(crate) use gemv::gemv as launch_gemv;
pub(crate) use load::GroupLoad;
use matrix::MatrixShape;
pub use packing::{KernelWeight, PackedBlocks, PackedWeight, Packing};
pub use shape::MAX_ROWS;
pub(crate) use widen::widen as launch_widen;

use super::{
    check::check_dtype,
    device::{is_cube_with, supported},
    extension::LinearOps,
    operands::Inputs,
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
pub fn max_rows(device: &Device, dtype: DType, d_input: usize) -> usize {
    let is_taken = |takes: fn(&DeviceProperties, DType, usize) -> bool| {
        supported(device) && is_cube_with(device, |properties| takes(properties, dtype, d_input))
    };
    #[cfg(feature = "cuda")]
    if is_taken(warpgroup::takes) {
        return warpgroup::MAX_ROWS;
    }
    if is_taken(batch::takes) {
        batch::MAX_ROWS
    } else {
        MAX_ROWS
    }
}

/// Of `m` rows, those that [`gemv`] takes with packed weights in one launch without loss: as many as the kernel
/// with matrix instructions has room for, where the device and the weights have one. The kernel without them keeps
/// all rows of a load in registers, which eight rows do not fit into.
pub fn packed_rows(weight: &KernelWeight, dtype: DType, normed: bool, m: usize) -> usize {
    let most = m.min(MAX_ROWS);
    let KernelWeight::Groups(groups) = weight else {
        return most;
    };
    let [_, d_input] = weight.dims();
    let packing = groups.packing();
    if m > MAX_ROWS {
        let many = many_packed_rows(groups, dtype);
        if many > MAX_ROWS {
            return m.min(many);
        }
    }
    let fits = |rows: usize| {
        groups.scales.dtype() == dtype
            && is_cube_with(&groups.words.device(), |properties| {
                let epilogue = Epilogue::default();
                let sizes = [rows, d_input];
                MatrixShape::of(properties, dtype, sizes, normed, packing, epilogue).is_some()
            })
    };
    (1..=most).rev().find(|&rows| fits(rows)).unwrap_or(most)
}

/// Most rows that [`gemv`] takes with packed weights on their device.
fn many_packed_rows(weight: &PackedWeight, dtype: DType) -> usize {
    #[cfg(feature = "cuda")]
    {
        let [_, d_input] = weight.dims();
        let packing = weight.packing();
        let takes = weight.scales.dtype() == dtype
            && supported(&weight.words.device())
            && is_cube_with(&weight.words.device(), |properties| {
                warpgroup::packed::takes(properties, dtype, d_input, packing)
            });
        if takes {
            return warpgroup::MAX_ROWS;
        }
    }
    #[cfg(not(feature = "cuda"))]
    let _ = (weight, dtype);
    MAX_ROWS
}

/// `rows * weight^T`, with an RMSNorm of the rows before it and what follows, in the same launch where rows
/// are few; sums are kept in f32 and rounded once. Packed weights are unpacked in registers.
///
/// # Shapes
///
/// - rows: `[m, d_input]`, m from 1 to [`max_rows`], or as many as [`packed_rows`] says where weights are packed
/// - norm: weight, `[d_input]`, and epsilon
/// - weight: `[d_output, d_input]`
/// - bias: `[d_output]`
/// - residual, output: `[m, d_output]`, or half as many columns where `gated`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, there are too many rows, or groups are no powers of two
/// from 16.
pub fn gemv(
    rows: Tensor<2>,
    norm: Option<(Tensor<1>, f64)>,
    weight: impl Into<KernelWeight>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<2>>,
    gated: bool,
) -> Tensor<2> {
    let weight = weight.into();
    let [_, d_input] = rows.dims();
    let [n, weight_input] = weight.dims();
    assert_eq!(weight_input, d_input, "input channels of a linear layer");
    let mut max = MAX_ROWS;
    if let KernelWeight::Full(weight) = &weight {
        check_dtype("weights", weight.dtype(), rows.dtype());
        max = max_rows(&rows.device(), rows.dtype(), d_input);
    }
    if let KernelWeight::Groups(groups) = &weight {
        max = many_packed_rows(groups, rows.dtype());
    }
    let inputs = Inputs::new(rows, max, norm, n, bias, residual, gated);
    Tensor::from_dispatch(Dispatch::gemv(inputs, weight.into()))
}

/// The weights, `[d_output, d_input]`, in a dtype.
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or groups are no powers of two from 16.
pub fn widen(weight: impl Into<KernelWeight>, dtype: DType) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::widen(weight.into().into(), dtype))
}
