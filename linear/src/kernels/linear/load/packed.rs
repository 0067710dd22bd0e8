use core::marker::PhantomData;

use cubecl::prelude::*;

use super::{
    super::{
        Packing,
        args::WeightsArg,
        normed::{NormedRows, place},
        packing::Place,
        shape::GemvShape,
    },
    Loaded, WeightLoad,
};

/// The bits of 2^23.
const EXPONENT: i32 = 0x4B00_0000;
const EXPONENT_VALUE: f32 = 8_388_608.0;

/// Weights in 4 or 8 bits: a load is a few words, whose weights are of one group.
pub(in super::super) struct Packed<G: GroupLoad>(PhantomData<G>);

/// What the groups of packed weights have besides the integers.
#[cube]
pub(crate) trait GroupLoad: Send + Sync + 'static {
    /// What integers are multiplied by, and what is added to the weights then, of the `group`-th group
    /// from the start of a row, or of all.
    fn scale_and_minimum<S: Numeric, H: Size>(head: Vector<S, H>, group: usize) -> (f32, f32);
}

/// A scale in an element type.
pub(in super::super) struct Scales;

#[cube]
impl GroupLoad for Scales {
    fn scale_and_minimum<S: Numeric, H: Size>(head: Vector<S, H>, _group: usize) -> (f32, f32) {
        (f32::cast_from(head.extract(0usize)), f32::new(0.0))
    }
}

/// A weight of a word less its zero point, times its place's factor.
#[cube]
pub(in super::super) fn unpack(
    word: i32,
    zero: f32,
    #[comptime] index: usize,
    #[comptime] packing: Packing,
) -> f32 {
    let Place { down, mask, factor } = comptime!(packing.place(index));
    let shifted = if comptime!(down == 0) {
        word
    } else {
        word >> down
    };
    let value = f32::reinterpret((shifted & mask) | comptime!(EXPONENT));
    // Exact: integers below 2^24.
    if comptime!(packing.asymmetric) {
        value - fma(zero, f32::new(factor), f32::new(EXPONENT_VALUE))
    } else {
        value - comptime!(EXPONENT_VALUE + packing.offset() * factor)
    }
}

#[cube]
impl<G: GroupLoad> WeightLoad for Packed<G> {
    fn load<E: Numeric, W: Size, S: Numeric, H: Size>(
        loaded: &mut Loaded<E, W, S, H>,
        weights: &WeightsArg<E, W, S, H>,
        at: usize,
        #[comptime] slot: usize,
        #[comptime] packing: Packing,
    ) {
        // Rows are whole heads, so that loads of all rows are counted through.
        let head = at / comptime!(packing.loads_per_head());
        loaded.words[slot] = weights.words[at];
        loaded.heads[slot] = weights.heads[head];
        if comptime!(packing.asymmetric) {
            loaded.zeros[slot] = weights.zeros[head];
        }
    }

    /// A load's products with integers are summed first, and the sum is multiplied by their scale.
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
    ) {
        let GemvShape {
            rows: m,
            vectors,
            pieces,
            ..
        } = comptime!(shape);
        let weights = comptime!(shape.weights());
        let per_word = comptime!(packing.per_word());
        let row_vectors = comptime!(shape.row_vectors());
        let mut parts = Array::<f32>::new(comptime!(m * weights));
        let mut x = Array::<f32>::new(comptime!(m * width));
        // Of the LHS rows themselves, which a minimum is multiplied with.
        let mut x_sums = Array::<f32>::new(m);
        let is_in = column < vectors;
        let column = min(column, vectors - 1);
        #[unroll]
        for part in 0..comptime!(m * weights) {
            parts[part] = f32::new(0.0);
        }
        if comptime!(packing.minima) {
            #[unroll]
            for row in 0..m {
                x_sums[row] = f32::new(0.0);
            }
        }
        #[unroll]
        for piece in 0..pieces {
            #[unroll]
            for row in 0..m {
                let at = column * pieces + piece;
                let values = if comptime!(shape.normed) {
                    Vector::<f32, N>::cast_from(normed.rows[row * row_vectors + place(at, shape)])
                } else {
                    Vector::<f32, N>::cast_from(rows[row * row_vectors + at])
                };
                #[unroll]
                for j in 0..width {
                    let index = comptime!((piece * width + j) % per_word);
                    let inverse = comptime!(1.0 / packing.place(index).factor);
                    x[row * width + j] = values.extract(j) * inverse;
                    if comptime!(packing.minima) {
                        x_sums[row] += values.extract(j);
                    }
                }
            }
            #[unroll]
            for w in 0..weights {
                let index = comptime!(slot + w);
                let words = loaded.words[index];
                let zero = if comptime!(packing.asymmetric) {
                    f32::cast_from(loaded.zeros[index].extract(0usize))
                } else {
                    f32::new(0.0)
                };
                #[unroll]
                for j in 0..width {
                    let index = comptime!(piece * width + j);
                    let word = i32::reinterpret(words.extract(comptime!(index / per_word)));
                    let value = unpack(word, zero, comptime!(index % per_word), packing);
                    #[unroll]
                    for row in 0..m {
                        let sum = parts[w * m + row];
                        parts[w * m + row] = fma(value, x[row * width + j], sum);
                    }
                }
            }
        }
        let group = column / comptime!(packing.loads_per_group());
        #[unroll]
        for w in 0..weights {
            let head = loaded.heads[comptime!(slot + w)];
            let (scale, minimum) = G::scale_and_minimum::<S, H>(head, group);
            let scale = select(is_in, scale, 0.0f32);
            #[unroll]
            for row in 0..m {
                let sum = sums[w * m + row];
                sums[w * m + row] = fma(parts[w * m + row], scale, sum);
            }
            if comptime!(packing.minima) {
                let minimum = select(is_in, minimum, 0.0f32);
                #[unroll]
                for row in 0..m {
                    let sum = sums[w * m + row];
                    sums[w * m + row] = fma(x_sums[row], minimum, sum);
                }
            }
        }
    }
}
