//! What the kernels of one query token read and write, as one argument each.

use cubecl::prelude::*;

use super::super::args::PlacesArg;
use crate::row_load::RowsArg;

/// Queries, and the cache that they read.
#[derive(CubeType, CubeLaunch)]
pub(super) struct ReadArg<F: Float, N: Size, E: Numeric, W: Size> {
    /// `[batch, n_heads, vectors]`
    pub query: OwnedTensor<Vector<F, N>>,
    pub keys: RowsArg<E, W>,
    pub values: RowsArg<E, W>,
    /// The pages that are listed, `[batch, heads, k]`; a placeholder where all are read.
    pub pages: OwnedTensor<i32>,
    pub places: PlacesArg,
    /// Where the query tokens of a sequence start, `[batch]`, if it has several.
    pub starts: ComptimeOption<OwnedTensor<i32>>,
}

/// What the splits of each query head sum up to.
#[derive(CubeType, CubeLaunch)]
pub(super) struct SplitsArg<N: Size> {
    /// `[heads, n_splits, vectors]`
    pub sums: OwnedTensor<Vector<f32, N>>,
    /// Row max and row sum: `[heads, n_splits, 2]`.
    pub stats: OwnedTensor<f32>,
}
