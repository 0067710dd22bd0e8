//! What the operations take, as the backend sees it: weights of any form, and all else of a layer, cross
//! the dispatch as one value each.

use burn::{
    backend::{
        Backend, Dispatch, ExtensionType,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Tensor, assert_shape},
};

use super::{
    check::check_dtype,
    linear::{Epilogue, KernelWeight, Packing},
};
use crate::blocks::BlockFormat;

/// [`KernelWeight`]
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum Weights<B: Backend> {
    /// `[d_output, d_input]`
    Full(FloatTensor<B>),
    /// With a scale for each group. Absent zero points are bound to a placeholder, the scales.
    Groups {
        words: IntTensor<B>,
        scales: FloatTensor<B>,
        zeros: FloatTensor<B>,
        packing: Packing,
    },
    /// With the heads of a format's blocks.
    Blocks {
        words: IntTensor<B>,
        heads: IntTensor<B>,
        packing: Packing,
        format: BlockFormat,
    },
}

/// Which input channels of weights a row reads, and what becomes of the others; see
/// [`ChannelWeight`](super::linear::ChannelWeight).
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct ChannelChoice<B: Backend> {
    /// `[d_input]` in f32
    pub norms: FloatTensor<B>,
    pub threshold: f32,
    #[extension_type]
    pub correction: Correction<B>,
}

/// What skipped channels go through.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum Correction<B: Backend> {
    /// Nothing.
    None,
    /// `[d_input, rank]` and `[rank, d_output]`
    Factors {
        down: FloatTensor<B>,
        up: FloatTensor<B>,
    },
}

/// Operands other than the weights. Absent ones are bound to a placeholder, the rows, that no kernel reads.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct Inputs<B: Backend> {
    pub rows: FloatTensor<B>,
    /// Weight of the norm.
    pub gamma: FloatTensor<B>,
    pub bias: FloatTensor<B>,
    pub residual: FloatTensor<B>,
    pub normed: bool,
    pub epsilon: f32,
    pub epilogue: Epilogue,
}

impl From<KernelWeight> for Weights<Dispatch> {
    fn from(weight: KernelWeight) -> Self {
        match weight {
            KernelWeight::Full(weight) => Self::Full(weight.into_dispatch()),
            KernelWeight::Groups(weight) => {
                let packing = weight.packing();
                let scales = weight.scales.into_dispatch();
                let zeros = weight.zeros.map(Tensor::into_dispatch);
                Self::Groups {
                    words: weight.words.into_dispatch(),
                    zeros: zeros.unwrap_or_else(|| scales.clone()),
                    scales,
                    packing,
                }
            }
            KernelWeight::Blocks(weight) => Self::Blocks {
                packing: weight.packing(),
                format: weight.format(),
                words: weight.words.into_dispatch(),
                heads: weight.heads.into_dispatch(),
            },
        }
    }
}

impl Inputs<Dispatch> {
    /// # Panics
    ///
    /// When they do not fit a layer of `n` outputs, or there are more than `max_rows` rows.
    pub(crate) fn new(
        rows: Tensor<2>,
        max_rows: usize,
        norm: Option<(Tensor<1>, f64)>,
        n: usize,
        bias: Option<Tensor<1>>,
        residual: Option<Tensor<2>>,
        gated: bool,
    ) -> Self {
        let [m, d_input] = rows.dims();
        assert!(
            (1..=max_rows).contains(&m) && n > 0 && d_input > 0,
            "rows of a matrix-vector product: expected 1 to {max_rows}, found {m} of {d_input} for {n} \
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
