//! How a kernel reads a form of weights.
//!
//! One kernel goes through weights of every form; what differs is how a load becomes products, which is
//! [`WeightLoad`]: [`Full`] in an element type, [`Packed`] in integers. What differs among those is what
//! their groups have besides the integers, [`GroupLoad`]: [`Scales`], or the heads of a format's blocks,
//! which stand with the format.

mod full;
mod packed;

use cubecl::prelude::*;

pub(super) use full::Full;
pub(crate) use packed::GroupLoad;
pub(super) use packed::{Packed, Scales, unpack};

use super::{Packing, args::WeightsArg, normed::NormedRows, shape::GemvShape};

/// What a unit has in flight of its weight rows: loads, and what the groups of each have.
#[derive(CubeType)]
pub(super) struct Loaded<E: Numeric, W: Size, S: Numeric, H: Size> {
    pub words: Array<Vector<E, W>>,
    pub heads: Array<Vector<S, H>>,
    pub zeros: Array<Vector<S, H>>,
}

/// Room for so many loads, and for what so many groups have.
#[cube]
pub(super) fn nothing_loaded<E: Numeric, W: Size, S: Numeric, H: Size>(
    #[comptime] loads: usize,
    #[comptime] groups: usize,
) -> Loaded<E, W, S, H> {
    Loaded::<E, W, S, H> {
        words: Array::new(loads),
        heads: Array::new(groups),
        zeros: Array::new(groups),
    }
}

/// A form of weights as CubeCL code.
#[cube]
pub(super) trait WeightLoad: Send + Sync + 'static {
    /// Loads into a slot what a unit reads at a time of a weight row: the `at`-th load of all rows.
    fn load<E: Numeric, W: Size, S: Numeric, H: Size>(
        loaded: &mut Loaded<E, W, S, H>,
        weights: &WeightsArg<E, W, S, H>,
        at: usize,
        #[comptime] slot: usize,
        #[comptime] packing: Packing,
    );

    /// Adds the products of the loads at a column, of each weight row one, with every LHS row. They
    /// are in the slots from `slot` on; past the end of a row nothing is added.
    fn add_products<F: Float, N: Size, E: Numeric, W: Size, S: Numeric, H: Size>(
        sums: &mut Array<f32>,
        loaded: &Loaded<E, W, S, H>,
        normed: &NormedRows<F, N>,
        rows: &Tensor<Vector<F, N>>,
        column: usize,
        #[comptime] slot: usize,
        #[comptime] width: usize,
        #[comptime] packing: Packing,
        #[comptime] shape: GemvShape,
    );
}
