//! The running softmax of one cube: loads keys and values and folds them in.

use cubecl::prelude::*;

use super::{
    super::row::{dot, lanes_scatter_sum, lanes_sum},
    split::{Place, Shape, Slots},
};

/// Below any score; a softmax weight relative to it is 0 or, among its like, multiplies a sum of 0.
pub(super) const NO_SCORE: f32 = -1e30;

/// The running softmax of a run of lanes, for each query head.
#[derive(CubeType)]
pub(super) struct Softmax<N: Size> {
    /// Query, scaled.
    query: Array<Vector<f32, N>>,
    pub accumulator: Array<Vector<f32, N>>,
    pub row_max: Array<f32>,
    pub row_sum: Array<f32>,
}

#[cube]
pub(super) fn softmax<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    scale: f32,
    place: &Place,
    #[comptime] shape: Shape,
) -> Softmax<N> {
    let lane = UNIT_POS as usize % shape.lanes;
    let row = comptime!(shape.row());
    let mut scaled = Array::<Vector<f32, N>>::new(comptime!(shape.heads * shape.vectors));
    let mut accumulator = Array::<Vector<f32, N>>::new(comptime!(shape.heads * shape.vectors));
    let mut row_max = Array::<f32>::new(shape.heads);
    let mut row_sum = Array::<f32>::new(shape.heads);
    #[unroll]
    for h in 0..shape.heads {
        row_max[h] = f32::new(NO_SCORE);
        row_sum[h] = f32::new(0.0);
        #[unroll]
        for c in 0..shape.vectors {
            let head = place.sequence * place.n_heads + place.query_head + h;
            let q = query[head * row + c * shape.lanes + lane];
            scaled[h * shape.vectors + c] = Vector::<f32, N>::cast_from(q) * Vector::new(scale);
            accumulator[h * shape.vectors + c] = Vector::new(0.0f32);
        }
    }
    Softmax::<N> {
        query: scaled,
        accumulator,
        row_max,
        row_sum,
    }
}

/// Keys and values of the tokens that a run of lanes has in flight.
#[derive(CubeType)]
struct Tokens<F: Float, N: Size> {
    keys: Array<Vector<F, N>>,
    values: Array<Vector<F, N>>,
    used: Array<bool>,
}

#[cube]
fn load_tokens<F: Float, N: Size>(
    tokens: &mut Tokens<F, N>,
    first: usize,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    slots: &Slots,
    n_slots: usize,
    place: &Place,
    #[comptime] shape: Shape,
) {
    let lane = UNIT_POS as usize % shape.lanes;
    let run = UNIT_POS as usize / shape.lanes;
    let runs = comptime!(shape.units / shape.lanes);
    let row = comptime!(shape.row());
    let vectors = comptime!(shape.vectors);
    #[unroll]
    for u in 0..shape.in_flight {
        let t = first + u * runs + run;
        let slot = min(t / shape.page_size, n_slots - 1);
        let within = t % shape.page_size;
        let valid = t < n_slots * shape.page_size && within < slots.tokens[slot] as usize;
        tokens.used[u] = valid;
        let within = select(valid, within, 0usize);
        let page = slots.pages[slot] as usize * place.n_kv_heads + place.kv_head;
        let at = (page * shape.page_size + within) * row + lane;
        #[unroll]
        for c in 0..vectors {
            tokens.keys[u * vectors + c] = keys[at + c * shape.lanes];
            tokens.values[u * vectors + c] = values[at + c * shape.lanes];
        }
    }
}

#[cube]
fn fold_tokens<F: Float, N: Size>(
    state: &mut Softmax<N>,
    tokens: &Tokens<F, N>,
    #[comptime] shape: Shape,
) {
    let vectors = comptime!(shape.vectors);
    let width = comptime!(shape.width());
    let in_flight = comptime!(shape.in_flight);
    #[unroll]
    for h in 0..shape.heads {
        let mut scores = Array::<f32>::new(in_flight);
        let mut row_max = state.row_max[h];
        #[unroll]
        for u in 0..in_flight {
            let mut product = f32::new(0.0);
            #[unroll]
            for c in 0..vectors {
                let key = Vector::<f32, N>::cast_from(tokens.keys[u * vectors + c]);
                product = dot::<N>(state.query[h * vectors + c], key, product, width);
            }
            let score = lanes_sum(product, shape.lanes);
            scores[u] = select(tokens.used[u], score, f32::new(NO_SCORE));
            row_max = max(row_max, scores[u]);
        }
        let correction = f32::exp(state.row_max[h] - row_max);
        state.row_max[h] = row_max;
        let mut sum = state.row_sum[h] * correction;
        #[unroll]
        for c in 0..vectors {
            state.accumulator[h * vectors + c] =
                state.accumulator[h * vectors + c] * Vector::new(correction);
        }
        #[unroll]
        for u in 0..in_flight {
            let weight = select(tokens.used[u], f32::exp(scores[u] - row_max), f32::new(0.0));
            sum += weight;
            #[unroll]
            for c in 0..vectors {
                let value = Vector::<f32, N>::cast_from(tokens.values[u * vectors + c]);
                state.accumulator[h * vectors + c] = fma(
                    Vector::new(weight),
                    value,
                    state.accumulator[h * vectors + c],
                );
            }
        }
        state.row_sum[h] = sum;
    }
}

/// As `fold_tokens`, with each score summed up in one lane of the run (a reduce-scatter instead of
/// a sum of its own for each), so that its exponential is taken once.
#[cube]
fn fold_transposed<F: Float, N: Size>(
    state: &mut Softmax<N>,
    tokens: &Tokens<F, N>,
    #[comptime] shape: Shape,
) {
    let lanes = comptime!(shape.lanes);
    let vectors = comptime!(shape.vectors);
    let in_flight = comptime!(shape.in_flight);
    let heads = comptime!(shape.heads);
    let width = comptime!(shape.width());
    let n = comptime!(shape.n_scores());
    let spread = comptime!(lanes / n);
    let lane = UNIT_POS as usize % lanes;

    let mut sums = Array::<f32>::new(n);
    #[unroll]
    for u in 0..in_flight {
        #[unroll]
        for h in 0..heads {
            let mut product = f32::new(0.0);
            #[unroll]
            for c in 0..vectors {
                let key = Vector::<f32, N>::cast_from(tokens.keys[u * vectors + c]);
                product = dot::<N>(state.query[h * vectors + c], key, product, width);
            }
            sums[u * heads + h] = product;
        }
    }
    let score = lanes_scatter_sum(&mut sums, n, lanes);

    let own = lane / spread / heads;
    let mut used = false.runtime();
    #[unroll]
    for u in 0..in_flight {
        used = used || (own == u && tokens.used[u]);
    }
    let score = select(used, score, f32::new(NO_SCORE));
    let mut row_max = score;
    let token_steps = comptime!(in_flight.ilog2());
    #[unroll]
    for s in 0..token_steps {
        let mask = comptime!(((spread * heads) as u32) << s);
        row_max = max(row_max, plane_shuffle_xor(row_max, mask));
    }
    let row_max = max(row_max, state.row_max[0]);
    let weight = select(used, f32::exp(score - row_max), f32::new(0.0));
    let mut sum = weight;
    #[unroll]
    for s in 0..token_steps {
        let mask = comptime!(((spread * heads) as u32) << s);
        sum += plane_shuffle_xor(sum, mask);
    }
    let correction = f32::exp(state.row_max[0] - row_max);
    state.row_max[0] = row_max;
    state.row_sum[0] = state.row_sum[0] * correction + sum;

    let base = UNIT_POS_PLANE / comptime!(lanes as u32) * comptime!(lanes as u32);
    #[unroll]
    for h in 0..heads {
        let correction = plane_shuffle(correction, base + comptime!((spread * h) as u32));
        #[unroll]
        for c in 0..vectors {
            state.accumulator[h * vectors + c] =
                state.accumulator[h * vectors + c] * Vector::new(correction);
        }
        #[unroll]
        for u in 0..in_flight {
            let from = comptime!((spread * (u * heads + h)) as u32);
            let weight = plane_shuffle(weight, base + from);
            #[unroll]
            for c in 0..vectors {
                let value = Vector::<f32, N>::cast_from(tokens.values[u * vectors + c]);
                state.accumulator[h * vectors + c] = fma(
                    Vector::new(weight),
                    value,
                    state.accumulator[h * vectors + c],
                );
            }
        }
    }
}

#[cube]
fn fold<F: Float, N: Size>(
    state: &mut Softmax<N>,
    tokens: &Tokens<F, N>,
    #[comptime] shape: Shape,
) {
    if comptime!(shape.transposed) {
        fold_transposed::<F, N>(state, tokens, shape);
    } else {
        fold_tokens::<F, N>(state, tokens, shape);
    }
}

#[cube]
fn tokens<F: Float, N: Size>(#[comptime] shape: Shape) -> Tokens<F, N> {
    Tokens::<F, N> {
        keys: Array::new(comptime!(shape.in_flight * shape.vectors)),
        values: Array::new(comptime!(shape.in_flight * shape.vectors)),
        used: Array::new(shape.in_flight),
    }
}

/// Attends to the first `n_slots` slots: an aligned run of `lanes` units walks tokens, `in_flight`
/// at a time; all query heads share each load of a key and a value.
#[cube]
pub(super) fn attend<F: Float, N: Size>(
    state: &mut Softmax<N>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    slots: &Slots,
    n_slots: usize,
    place: &Place,
    #[comptime] shape: Shape,
) {
    let step = comptime!(shape.units / shape.lanes * shape.in_flight);
    let n_tokens = n_slots * shape.page_size;
    if comptime!(shape.prefetch) {
        let mut even = tokens::<F, N>(shape);
        let mut odd = tokens::<F, N>(shape);
        load_tokens::<F, N>(
            &mut even, 0usize, keys, values, slots, n_slots, place, shape,
        );
        let mut token = 0usize;
        while token < n_tokens {
            load_tokens::<F, N>(
                &mut odd,
                token + step,
                keys,
                values,
                slots,
                n_slots,
                place,
                shape,
            );
            fold::<F, N>(state, &even, shape);
            token += step;
            if token < n_tokens {
                load_tokens::<F, N>(
                    &mut even,
                    token + step,
                    keys,
                    values,
                    slots,
                    n_slots,
                    place,
                    shape,
                );
                fold::<F, N>(state, &odd, shape);
                token += step;
            }
        }
    } else {
        let mut token = 0usize;
        while token < n_tokens {
            let mut now = tokens::<F, N>(shape);
            load_tokens::<F, N>(&mut now, token, keys, values, slots, n_slots, place, shape);
            fold::<F, N>(state, &now, shape);
            token += step;
        }
    }
}
