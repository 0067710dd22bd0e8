//! How the kernel reads digests.
//!
//! One kernel scores by digests of every kind in every form of storage. The kind says how rows are
//! weighed ([`KernelDigest`]), the storage how a load becomes products ([`DigestLoad`]): [`Full`] in the
//! dtype of the cache, [`Int8`] in bytes with scales.

mod full;
mod int8;

use cubecl::prelude::*;

pub(super) use self::{
    full::Full,
    int8::{Int8, WIDTH as INT8_WIDTH},
};
use super::plan::ScoreShape;
use crate::digest::KernelDigest;

/// The digests of a pool.
#[derive(CubeType, CubeLaunch)]
pub(super) struct DigestsArg<E: Numeric, N: Size> {
    pub rows: OwnedTensor<Vector<E, N>>,
    /// Of digests in 8 bits.
    pub scales: ComptimeOption<OwnedTensor<f32>>,
}

/// The digests that a unit has in flight.
#[derive(CubeType)]
pub(super) struct Loaded<E: Numeric, N: Size> {
    /// This lane's vectors of both rows, `[page, vector]`; of the second one if the kind has one.
    pub first: Array<Vector<E, N>>,
    pub second: Array<Vector<E, N>>,
    /// What integers are multiplied by, `[page, vector]`.
    pub scales: Array<f32>,
    /// The number for all channels of each page, where the kind has one.
    pub scalars: Array<f32>,
}

/// The parts of sums that a unit has, `[page, query head]`.
#[derive(CubeType)]
pub(super) struct Sums {
    /// Products with the first row, or with both.
    pub products: Array<f32>,
    /// Products with the squares of the second row, where the kind has such.
    pub squares: Array<f32>,
}

/// A form of storage as CubeCL code.
#[cube]
pub(super) trait DigestLoad: Send + Sync + 'static {
    /// Pages of the pool, and KV heads.
    fn pool<E: Numeric, N: Size>(digests: &DigestsArg<E, N>) -> (usize, usize);

    /// Loads the digests of `in_flight` pages of a head.
    fn load<D: KernelDigest, E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        pool_pages: &Array<usize>,
        head: usize,
        #[comptime] shape: ScoreShape,
    ) -> Loaded<E, N>;

    /// Adds the products of the `vector`-th vectors of all pages with the `member`-th query head of the
    /// group, which is the `query_head`-th of the batch. Gives the squares of the query's channels, added
    /// to `norm`, where the kind has a number for all channels.
    fn add_products<D: KernelDigest, F: Float, E: Numeric, N: Size>(
        sums: &mut Sums,
        loaded: &Loaded<E, N>,
        query: &Tensor<Vector<F, N>>,
        norm: f32,
        query_head: usize,
        #[comptime] member: usize,
        #[comptime] vector: usize,
        #[comptime] shape: ScoreShape,
    ) -> f32;
}
