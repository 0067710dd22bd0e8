use cubecl::prelude::*;

use super::{
    super::{Packing, args::WeightsArg, normed::NormedRows, shape::GemvShape},
    Loaded, WeightLoad,
};

/// Weights in the element type of the LHS rows, a vector at a time.
pub(in super::super) struct Full;

#[cube]
impl WeightLoad for Full {
    fn load<E: Numeric, W: Size, S: Numeric, H: Size>(
        loaded: &mut Loaded<E, W, S, H>,
        weights: &WeightsArg<E, W, S, H>,
        at: usize,
        #[comptime] slot: usize,
        #[comptime] _packing: Packing,
    ) {
        loaded.words[slot] = weights.words[at];
    }

    fn add_products<F: Float, N: Size, E: Numeric, W: Size, S: Numeric, H: Size>(
        sums: &mut Array<f32>,
        loaded: &Loaded<E, W, S, H>,
        normed: &NormedRows<F, N>,
        rows: &Tensor<Vector<F, N>>,
        column: usize,
        #[comptime] slot: usize,
        #[comptime] width: usize,
        #[comptime] _packing: Packing,
        #[comptime] shape: GemvShape,
    ) {
        let GemvShape {
            rows: m, vectors, ..
        } = comptime!(shape);
        let weights = comptime!(shape.weights());
        let is_in = column < vectors;
        let column = min(column, vectors - 1);
        #[unroll]
        for row in 0..m {
            let at = row * vectors + column;
            let x = if comptime!(shape.normed) {
                Vector::<f32, N>::cast_from(normed.rows[at])
            } else {
                Vector::<f32, N>::cast_from(rows[at])
            };
            #[unroll]
            for w in 0..weights {
                let values = Vector::<f32, W>::cast_from(loaded.words[comptime!(slot + w)]);
                let mut sum = f32::new(0.0);
                #[unroll]
                for j in 0..width {
                    sum = fma(values.extract(j), x.extract(j), sum);
                }
                sums[w * m + row] += select(is_in, sum, 0.0f32);
            }
        }
    }
}
