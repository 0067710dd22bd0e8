//! The two products of a tile: queries with keys, weights with values. A unit has [`ROWS`] query tokens,
//! and of the keys or channels every [`LANES`]-th.

use cubecl::prelude::*;

use super::{
    super::super::row::dot,
    plan::{LANES, ROWS, UnitsShape},
};

/// Below any score.
pub(super) const NO_SCORE: f32 = -1e30;

/// Writes the scores of this unit's tokens with its keys. The first token sees `visible` keys of the
/// tile, each later one a key more.
#[cube]
pub(super) fn score<N: Size>(
    scores: &mut Shared<[f32]>,
    queries: &Shared<[Vector<f32, N>]>,
    keys: &Shared<[Vector<f32, N>]>,
    visible: i32,
    #[comptime] shape: UnitsShape,
) {
    let own_keys = comptime!(shape.own_keys());
    let first_row = UNIT_POS as usize / LANES * ROWS;
    let lane = UNIT_POS as usize % LANES;
    let mut sums = Array::<f32>::new(comptime!(ROWS * own_keys));
    #[unroll]
    for i in 0..comptime!(ROWS * own_keys) {
        sums[i] = f32::new(0.0);
    }
    for v in 0..comptime!(shape.vectors()) {
        let mut tile = Array::<Vector<f32, N>>::new(own_keys);
        #[unroll]
        for k in 0..own_keys {
            tile[k] = keys[(lane + k * LANES) * shape.stride() + v];
        }
        #[unroll]
        for r in 0..ROWS {
            let query = queries[(first_row + r) * shape.stride() + v];
            #[unroll]
            for k in 0..own_keys {
                let i = comptime!(r * own_keys + k);
                sums[i] = dot::<N>(query, tile[k], sums[i], shape.width);
            }
        }
    }
    #[unroll]
    for r in 0..ROWS {
        #[unroll]
        for k in 0..own_keys {
            let key = lane + k * LANES;
            let seen = (key as i32) < visible + (first_row + r) as i32;
            let score = select(seen, sums[r * own_keys + k], f32::new(NO_SCORE));
            scores[(first_row + r) * shape.score_stride() + key] = score;
        }
    }
}

/// Corrects this unit's sums and adds the weighted values of the tile.
#[cube]
pub(super) fn add_values<N: Size>(
    sums: &mut Array<Vector<f32, N>>,
    weights: &Shared<[f32]>,
    corrections: &Shared<[f32]>,
    values: &Shared<[Vector<f32, N>]>,
    #[comptime] shape: UnitsShape,
) {
    let own = comptime!(shape.own_vectors());
    let first_row = UNIT_POS as usize / LANES * ROWS;
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for r in 0..ROWS {
        let correction = Vector::<f32, N>::new(corrections[first_row + r]);
        #[unroll]
        for v in 0..own {
            sums[r * own + v] = sums[r * own + v] * correction;
        }
    }
    for key in 0..comptime!(shape.keys) {
        let mut row = Array::<Vector<f32, N>>::new(own);
        #[unroll]
        for v in 0..own {
            // Past the end of a row lies the gap to the next, whose sums are not used.
            let at = min(lane + v * LANES, comptime!(shape.vectors() - 1));
            row[v] = values[key * shape.stride() + at];
        }
        #[unroll]
        for r in 0..ROWS {
            let weight = weights[(first_row + r) * shape.score_stride() + key];
            let weight = Vector::<f32, N>::new(weight);
            #[unroll]
            for v in 0..own {
                let i = comptime!(r * own + v);
                sums[i] = fma(row[v], weight, sums[i]);
            }
        }
    }
}
