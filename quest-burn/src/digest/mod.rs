//! Digests: what is kept of a page's keys, so that pages can be scored without reading them.
//!
//! A kind of digest is a folder of this module and a line in its registry. Each says how many rows it
//! keeps, how they are made of a page's keys, and how they score a page for a query: in tensor
//! operations, natively and as CubeCL code. In which numbers they are stored
//! ([`DigestStorage`](crate::cache::DigestStorage)) is another matter.
//!
//! | kind | rows of a page | score | `c` |
//! |---|---|---|---|
//! | [`DigestKind::MinMax`] | minimum, maximum | `sum_i max(q_i min_i, q_i max_i)`, a bound of every key's product | |
//! | [`DigestKind::MeanVar`] | mean, standard deviation | `q . mean + c sqrt(sum_i q_i^2 var_i)` | 2 |
//! | [`DigestKind::MeanScalar`] | mean, and one standard deviation for all channels | `q . mean + c norm(q) std` | 2 |
//! | [`DigestKind::Mean`] | mean | `q . mean` | |
//!
//! `c` is what a query takes unless its [`PageScoring`](crate::PageScoring) says otherwise; digests are the
//! same for every `c`.
//!
//! Digests are made of the rows that a page holds, one after the other, whenever the page gains a row: the
//! same bits however the tokens came, and after truncation. (Minima and maxima are folded on where that is
//! done natively, which gives the same bits.) Sums are in f32, and what
//! is stored is rounded once, to the dtype of the cache. Squares are summed about the first key of the
//! page, so that a variance is off by at most about `page_size * 2^-22` of itself.

#![allow(
    clippy::manual_div_ceil,
    clippy::type_complexity,
    reason = "cube functions know the plain operators, and return several vectors"
)]

pub(crate) mod mean;
pub(crate) mod mean_scalar;
pub(crate) mod mean_var;
pub(crate) mod min_max;
mod moments;
mod registry;

use burn::tensor::Tensor;

use crate::FixedPoint;

pub(crate) use registry::with_digest;
pub use registry::{DigestKind, UnknownDigest};

#[cfg(feature = "cube")]
pub(crate) use cube::{KernelDigest, merge_bounds};

/// Channels behind the rows of a digest that hold its number for all channels: 16 bytes of the half
/// types, so that rows stay aligned.
pub(crate) const SCALAR_CHANNELS: usize = 8;

/// A kind of digest in tensor operations.
pub(crate) trait Digest: Send + Sync + 'static {
    /// Rows of a page.
    const ROWS: usize;
    /// Whether a number for all channels follows the rows.
    const SCALAR: bool = false;
    /// Whether the rows are the minimum and the maximum of the keys, so that a score bounds the product of
    /// the query with every key. Fewer bits must not tighten a bound: 8-bit numbers are rounded outwards,
    /// the first row down and the second one up.
    const IS_BOUND: bool = false;
    /// Whether the second row enters the score squared and apart from the first one.
    const SQUARED: bool = false;
    /// What deviations are multiplied by in scores unless something else is asked for; none where the
    /// digest has none.
    const DEVIATIONS: Option<FixedPoint> = None;

    /// Digests of pages.
    ///
    /// # Shapes
    ///
    /// - keys: `[n_pages, heads, rows, head_dim]` in f32
    /// - output: `[n_pages, heads, ROWS, channels]`
    fn fold(keys: Tensor<4>) -> Tensor<4>;

    /// Scores of pages.
    ///
    /// # Shapes
    ///
    /// - query: `[heads, group, head_dim]` in f32
    /// - digests: `[heads, n_pages, ROWS, channels]` in f32
    /// - output: `[heads, group, n_pages]`
    fn scores(query: Tensor<3>, digests: Tensor<4>, deviations: f32) -> Tensor<3>;
}

/// A kind of digest natively.
#[cfg(feature = "flex")]
pub(crate) trait NativeDigest: Digest {
    /// The digest of a page with these keys, `[rows, head_dim]`.
    fn fold_page(keys: &[f32], head_dim: usize, digest: &mut [f32]);

    /// What a query's channel is multiplied with the first row by, and the second one or its square.
    fn factors(q: f32) -> [f32; 2];

    /// The score, from the products with the rows, or with the first row and the square of the second,
    /// the norm of the query, the number for all channels, and what deviations are multiplied by.
    fn score(product: f32, squares: f32, norm: f32, scalar: f32, deviations: f32) -> f32;
}

/// Where the rows of a digest are, and how much room they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DigestLayout {
    /// Rows of a page.
    pub rows: usize,
    /// Whether a number for all channels follows the rows.
    pub scalar: bool,
}

impl DigestLayout {
    pub(crate) fn of<D: Digest>() -> Self {
        Self {
            rows: D::ROWS,
            scalar: D::SCALAR,
        }
    }

    /// Channels of a row, with those behind it.
    pub(crate) fn channels(self, head_dim: usize) -> usize {
        head_dim + if self.scalar { SCALAR_CHANNELS } else { 0 }
    }
}

/// A page's first row of channels, `[.., rows, channels]` -> `[.., rows, head_dim]`, and so on.
fn row(digests: &Tensor<4>, row: usize, head_dim: usize) -> Tensor<4> {
    digests
        .clone()
        .slice_dim(2, row..row + 1)
        .slice_dim(3, 0..head_dim)
}

/// Products of queries `[heads, group, n]` with rows `[heads, n_pages, 1, n]`.
fn products(query: Tensor<3>, rows: Tensor<4>) -> Tensor<3> {
    query.matmul(rows.squeeze_dim::<3>(2).swap_dims(1, 2))
}

#[cfg(feature = "cube")]
mod cube {
    use cubecl::prelude::*;

    use super::Digest;
    use crate::{
        FixedPoint,
        row_load::{RowLoad, RowsArg},
    };

    /// The bounds of two runs of keys together, from those of each.
    #[cube]
    pub(crate) fn merge_bounds<N: Size>(
        min_a: Vector<f32, N>,
        max_a: Vector<f32, N>,
        min_b: Vector<f32, N>,
        max_b: Vector<f32, N>,
    ) -> (Vector<f32, N>, Vector<f32, N>) {
        (min(min_a, min_b), max(max_a, max_b))
    }

    /// A kind of digest as CubeCL code. Units of a cube share a row, a vector each.
    #[cube]
    pub(crate) trait KernelDigest: Digest {
        /// The vectors of both rows of a page that holds `n` keys, from row `first` of the pool on; a
        /// unit has the load at `column` of the `row` loads of each. Where there is a number for all
        /// channels, the second vector is what its square is the mean of.
        fn fold_rows<L: RowLoad, E: Numeric, W: Size, N: Size>(
            keys: &RowsArg<E, W>,
            first: usize,
            column: usize,
            row: usize,
            n: usize,
            #[comptime] page_size: usize,
        ) -> (Vector<f32, N>, Vector<f32, N>);

        /// What a query's channels are multiplied with the first row by, and the second one or its
        /// square.
        fn factors<N: Size>(q: Vector<f32, N>) -> (Vector<f32, N>, Vector<f32, N>);

        /// The score, from the products with the rows, or with the first row and the square of the
        /// second. What the number for all channels adds is in the first product.
        fn score(product: f32, squares: f32, #[comptime] deviations: FixedPoint) -> f32;
    }
}
