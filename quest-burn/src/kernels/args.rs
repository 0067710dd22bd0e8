//! What kernels take of a cache, as one argument each.

use burn_cubecl::{CubeBackend, kernel::into_contiguous};
use cubecl::prelude::*;

use super::operands::{Places, Pool};

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
pub(super) struct PoolArg<F: Float, N: Size> {
    /// `[n_pages, n_kv_heads, page_size, vectors]`
    pub keys: OwnedTensor<Vector<F, N>>,
    pub values: OwnedTensor<Vector<F, N>>,
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

impl Pool<CubeBackend> {
    pub(super) fn arg<F: Float, N: Size>(&self) -> PoolArgLaunch<F, N> {
        PoolArgLaunch::new(
            self.keys.clone().into_tensor_arg(),
            self.values.clone().into_tensor_arg(),
            self.digests.rows().clone().into_tensor_arg(),
        )
    }
}
