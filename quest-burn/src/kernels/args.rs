//! What kernels take of a cache, as one argument each.

use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::operands::{Places, Pool, Rows};
use crate::{
    cache::CHANNELS_PER_WORD,
    row_load::{RowsArg, RowsArgLaunch},
};

/// Which pages of the pool the sequences of a batch have, and how long the sequences are.
#[derive(CubeType, CubeLaunch)]
pub(super) struct PlacesArg {
    /// `[batch, max_pages]`
    pub page_table: OwnedTensor<i32>,
    /// `[batch]`
    pub lengths: OwnedTensor<i32>,
}

/// The same for kernels that write, with the positions from which they do.
#[derive(CubeType, CubeLaunch)]
pub(super) struct NewPlacesArg {
    /// `[batch, max_pages]`
    pub page_table: OwnedTensor<i32>,
    /// `[batch]`
    pub starts: OwnedTensor<i32>,
    /// `[batch]`
    pub lengths: OwnedTensor<i32>,
}

/// The pool of a layer, which a kernel writes in place; digests in 8 bits are an argument of their own.
#[derive(CubeType, CubeLaunch)]
pub(super) struct PoolArg<E: Numeric, W: Size, F: Float, N: Size> {
    pub keys: RowsArg<E, W>,
    pub values: RowsArg<E, W>,
    /// `[n_pages, n_kv_heads, rows, vectors]`
    pub digests: OwnedTensor<Vector<F, N>>,
}

impl Places<CubeBackend> {
    pub(super) fn into_arg(self) -> PlacesArgLaunch {
        PlacesArgLaunch::new(
            into_contiguous(self.page_table).into_tensor_arg(),
            self.lengths.into_tensor_arg(),
        )
    }

    pub(super) fn into_new_arg(self) -> NewPlacesArgLaunch {
        NewPlacesArgLaunch::new(
            into_contiguous(self.page_table).into_tensor_arg(),
            self.starts.into_tensor_arg(),
            self.lengths.into_tensor_arg(),
        )
    }
}

impl Rows<CubeBackend> {
    /// The rows, or the words of those in 8 bits.
    pub(super) fn stored(&self) -> &CubeTensor {
        match self {
            Self::Full { rows } => rows,
            Self::Int8 { words, .. } => words,
        }
    }

    /// `[n_pages, n_kv_heads, page_size, head_dim]`
    pub(super) fn dims(&self) -> [usize; 4] {
        let [n_pages, n_kv_heads, page_size, row] = self.stored().meta.shape().dims::<4>();
        let channels = match self {
            Self::Full { .. } => 1,
            Self::Int8 { .. } => CHANNELS_PER_WORD,
        };
        [n_pages, n_kv_heads, page_size, row * channels]
    }

    pub(super) fn into_contiguous(self) -> Self {
        match self {
            Self::Full { rows } => Self::Full {
                rows: into_contiguous(rows),
            },
            Self::Int8 { words, scales } => Self::Int8 {
                words: into_contiguous(words),
                scales: into_contiguous(scales),
            },
        }
    }

    pub(super) fn arg<E: Numeric, W: Size>(&self) -> RowsArgLaunch<E, W> {
        let scales = match self {
            Self::Full { .. } => None,
            Self::Int8 { scales, .. } => Some(scales.clone().into_tensor_arg()),
        };
        RowsArgLaunch::new(self.stored().clone().into_tensor_arg(), scales.into())
    }
}

impl Pool<CubeBackend> {
    pub(super) fn arg<E: Numeric, W: Size, F: Float, N: Size>(&self) -> PoolArgLaunch<E, W, F, N> {
        PoolArgLaunch::new(
            self.keys.arg(),
            self.values.arg(),
            self.digests.rows().clone().into_tensor_arg(),
        )
    }
}
