//! The softmax of a tile's scores, in shared memory.

use cubecl::prelude::*;

use super::{
    super::super::cooperative_matrix::WIDTH,
    rows::{NO_SCORE, Passed, Rows, own_row},
    shape::CooperativeShape,
};

/// How far a token's highest score rises above the one that its weights are taken from before its output
/// is rescaled, which takes a way through shared memory. Weights are up to `e^8`, which half precision holds.
const RISE: f32 = 8.0;

/// Turns scores into weights, and tells whether a token's output has to be rescaled, by `corrections`.
/// The first token of the cube sees `visible` keys of the tile, each later one a key more; without
/// `masked` all of them see every key.
#[cube]
pub(super) fn weigh<F: Float, W: Numeric, N: Size, P: Size>(
    passed: &mut Passed<W, N>,
    rows: &mut Rows<F>,
    corrections: &mut Array<f32>,
    visible: i32,
    masked: bool,
    scale: f32,
    #[comptime] shape: CooperativeShape,
) -> bool {
    let lanes = comptime!(shape.lanes());
    let own = comptime!(shape.own_scores());
    let packed = comptime!(shape.packed);
    let lane = UNIT_POS as usize % lanes;
    let mut rescale = false;
    #[unroll]
    for r in 0..comptime!(shape.own_rows()) {
        let row = own_row(r, shape);
        let from = row * comptime!(shape.score_stride() / WIDTH);
        let to = row * comptime!(shape.weight_stride() / shape.part()) + lane;
        let visible = visible + row as i32;
        let mut scores = Array::<Vector<f32, N>>::new(own);
        let mut highest = f32::new(NO_SCORE);
        #[unroll]
        for v in 0..own {
            let vector = (lane + comptime!(v / packed * lanes)) * packed + comptime!(v % packed);
            let mut score = passed.scores[from + vector] * Vector::new(scale);
            if masked {
                let key = (vector * WIDTH) as i32;
                #[unroll]
                for i in 0..WIDTH {
                    let seen = key + comptime!(i as i32) < visible;
                    score.insert(i, select(seen, score.extract(i), f32::new(NO_SCORE)));
                }
            }
            #[unroll]
            for i in 0..WIDTH {
                highest = max(highest, score.extract(i));
            }
            scores[v] = score;
        }
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            highest = max(highest, plane_shuffle_xor(highest, comptime!(1u32 << step)));
        }
        let before = rows.highest[r];
        let rises = highest > before + f32::new(RISE);
        let highest = select(rises, highest, before);
        // Before the first tile there is nothing to rescale.
        rescale = rescale || (rises && before > f32::new(NO_SCORE));
        let correction = f32::exp(before - highest);
        let mut total = rows.total[r] * correction;
        #[unroll]
        for v in 0..own {
            let mut score = scores[v];
            #[unroll]
            for i in 0..WIDTH {
                let weight = f32::exp(score.extract(i) - highest);
                total += weight;
                score.insert(i, weight);
            }
            scores[v] = score;
        }
        #[unroll]
        for p in 0..comptime!(own / packed) {
            passed.weights[to + comptime!(p * lanes)] =
                words::<F, W, N, P>(&scores, comptime!(p * packed), packed);
        }
        rows.highest[r] = highest;
        rows.total[r] = total;
        corrections[r] = correction;
    }
    rescale
}

/// Weights from the `first` vector on as a vector of words.
#[cube]
fn words<F: Float, W: Numeric, N: Size, P: Size>(
    weights: &Array<Vector<f32, N>>,
    #[comptime] first: usize,
    #[comptime] packed: usize,
) -> Vector<W, N> {
    if comptime!(packed == 1) {
        Vector::<W, N>::cast_from(weights[first])
    } else {
        let mut words = Vector::<W, N>::cast_from(0u32);
        #[unroll]
        for i in 0..WIDTH {
            let vector = weights[comptime!(first + i / 2)];
            let mut pair = Vector::<f32, P>::new(vector.extract(comptime!(i % 2 * 2)));
            pair.insert(1usize, vector.extract(comptime!(i % 2 * 2 + 1)));
            let word = u32::reinterpret(Vector::<F, P>::cast_from(pair));
            words.insert(i, W::cast_from(word));
        }
        words
    }
}
