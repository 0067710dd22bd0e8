//! How a load of a channel's weights becomes products, by their form.

use cubecl::prelude::*;

use super::super::{Packing, load::unpack};

/// A form of weights by input channels as CubeCL code.
#[cube]
pub(super) trait ChannelLoad: Send + Sync + 'static {
    /// Adds the products of a load's weights, which are of neighbouring outputs, with the row's value.
    fn add<E: Numeric, W: Size>(
        sums: &mut Array<f32>,
        load: Vector<E, W>,
        value: f32,
        #[comptime] elements: usize,
        #[comptime] packing: Packing,
    );
}

/// Weights in an element type.
pub(super) struct Whole;

#[cube]
impl ChannelLoad for Whole {
    fn add<E: Numeric, W: Size>(
        sums: &mut Array<f32>,
        load: Vector<E, W>,
        value: f32,
        #[comptime] elements: usize,
        #[comptime] _packing: Packing,
    ) {
        let weights = Vector::<f32, W>::cast_from(load);
        #[unroll]
        for i in 0..elements {
            sums[i] = fma(weights.extract(i), value, sums[i]);
        }
    }
}

/// Weights in words; the value is that of the row times their scale.
pub(super) struct Words;

#[cube]
impl ChannelLoad for Words {
    fn add<E: Numeric, W: Size>(
        sums: &mut Array<f32>,
        load: Vector<E, W>,
        value: f32,
        #[comptime] elements: usize,
        #[comptime] packing: Packing,
    ) {
        let per_word = comptime!(packing.per_word());
        #[unroll]
        for i in 0..comptime!(elements * per_word) {
            let word = i32::reinterpret(load.extract(comptime!(i / per_word)));
            let index = comptime!(i % per_word);
            // Exact: the factor is a power of two.
            let value = value * comptime!(1.0 / packing.place(index).factor);
            let weight = unpack(word, f32::new(0.0), index, packing);
            sums[i] = fma(weight, value, sums[i]);
        }
    }
}
