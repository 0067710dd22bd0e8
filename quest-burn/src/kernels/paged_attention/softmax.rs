//! The running softmax of one cube: loads keys and values and folds them in.

use cubecl::prelude::*;

use super::{
    super::row::{dot, lanes_scatter_sum, lanes_sum},
    split::{Place, Shape, Slots, column, hidden},
};
use crate::row_load::{RowLoad, RowsArg};

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
    /// Tokens at the end of the sequence that each head does not see; of a lane's own head where a lane has one.
    hidden: Array<u32>,
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
    let vectors = comptime!(shape.vectors());
    let mut scaled = Array::<Vector<f32, N>>::new(comptime!(shape.heads * vectors));
    let mut accumulator = Array::<Vector<f32, N>>::new(comptime!(shape.heads * vectors));
    let mut row_max = Array::<f32>::new(shape.heads);
    let mut row_sum = Array::<f32>::new(shape.heads);
    let mut of_heads = Array::<u32>::new(shape.heads);
    #[unroll]
    for h in 0..shape.heads {
        row_max[h] = f32::new(NO_SCORE);
        row_sum[h] = f32::new(0.0);
        let head = if comptime!(shape.transposed) {
            lane / comptime!(shape.lanes / shape.n_scores()) % shape.heads
        } else {
            h.runtime()
        };
        of_heads[h] = hidden(place, place.query_head + head, shape.chunk) as u32;
        #[unroll]
        for c in 0..vectors {
            let head = place.sequence * place.n_heads + place.query_head + h;
            let q = query[head * row + column(lane, c, shape)];
            scaled[h * vectors + c] = Vector::<f32, N>::cast_from(q) * Vector::new(scale);
            accumulator[h * vectors + c] = Vector::new(0.0f32);
        }
    }
    Softmax::<N> {
        query: scaled,
        accumulator,
        row_max,
        row_sum,
        hidden: of_heads,
    }
}

/// Keys and values of the tokens that a run of lanes has in flight, with the scales of both where rows have
/// such.
#[derive(CubeType)]
struct Tokens<E: Numeric, N: Size> {
    keys: Array<Vector<E, N>>,
    values: Array<Vector<E, N>>,
    key_scales: Array<f32>,
    value_scales: Array<f32>,
    used: Array<bool>,
    /// Tokens of the sequence from each of them on, itself among them.
    left: Array<u32>,
}

/// Whether a head that does not see the last `hidden` tokens of the sequence sees one that is in flight.
#[cube]
fn sees<E: Numeric, N: Size>(
    tokens: &Tokens<E, N>,
    #[comptime] token: usize,
    hidden: u32,
    #[comptime] shape: Shape,
) -> bool {
    let used = tokens.used[token];
    if comptime!(shape.chunk.is_some()) {
        used && hidden < tokens.left[token]
    } else {
        used
    }
}

#[cube]
fn load_tokens<L: RowLoad, E: Numeric, N: Size>(
    tokens: &mut Tokens<E, N>,
    first: usize,
    keys: &RowsArg<E, N>,
    values: &RowsArg<E, N>,
    slots: &Slots,
    n_slots: usize,
    place: &Place,
    #[comptime] shape: Shape,
) {
    let lane = UNIT_POS as usize % shape.lanes;
    let run = UNIT_POS as usize / shape.lanes;
    let runs = comptime!(shape.units / shape.lanes);
    let row_loads = comptime!(shape.row_loads());
    let loads = comptime!(shape.loads);
    #[unroll]
    for u in 0..shape.in_flight {
        let t = first + u * runs + run;
        let slot = min(t / shape.page_size, n_slots - 1);
        let within = t % shape.page_size;
        let of_page = slots.tokens[slot] as usize;
        let valid = t < n_slots * shape.page_size && within < of_page;
        tokens.used[u] = valid;
        if comptime!(shape.chunk.is_some()) {
            tokens.left[u] = (of_page - min(within, of_page)) as u32;
        }
        let within = select(valid, within, 0usize);
        let page = slots.pages[slot] as usize * place.n_kv_heads + place.kv_head;
        let row = page * shape.page_size + within;
        let at = row * row_loads + lane;
        #[unroll]
        for c in 0..loads {
            tokens.keys[u * loads + c] = keys.rows[at + c * shape.lanes];
            tokens.values[u * loads + c] = values.rows[at + c * shape.lanes];
        }
        if comptime!(L::SCALED) {
            tokens.key_scales[u] = L::scale::<E, N>(keys, row);
            tokens.value_scales[u] = L::scale::<E, N>(values, row);
        }
    }
}

/// The channels of a lane's `index`-th vector of a token's row; a scale is to be multiplied.
#[cube]
fn channels<L: RowLoad, E: Numeric, N: Size>(
    loads: &Array<Vector<E, N>>,
    #[comptime] token: usize,
    #[comptime] index: usize,
    #[comptime] shape: Shape,
) -> Vector<f32, N> {
    let at = comptime!(token * shape.loads + index / shape.pieces);
    L::channels::<E, N, N>(loads[at], comptime!(index % shape.pieces))
}

#[cube]
fn fold_tokens<L: RowLoad, E: Numeric, N: Size>(
    state: &mut Softmax<N>,
    tokens: &Tokens<E, N>,
    #[comptime] shape: Shape,
) {
    let vectors = comptime!(shape.vectors());
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
                let key = channels::<L, E, N>(&tokens.keys, u, c, shape);
                product = dot::<N>(state.query[h * vectors + c], key, product, width);
            }
            let mut score = lanes_sum(product, shape.lanes);
            if comptime!(L::SCALED) {
                score = score * tokens.key_scales[u];
            }
            let seen = sees::<E, N>(tokens, u, state.hidden[h], shape);
            scores[u] = select(seen, score, f32::new(NO_SCORE));
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
            let seen = sees::<E, N>(tokens, u, state.hidden[h], shape);
            let mut weight = select(seen, f32::exp(scores[u] - row_max), f32::new(0.0));
            sum += weight;
            if comptime!(L::SCALED) {
                weight = weight * tokens.value_scales[u];
            }
            #[unroll]
            for c in 0..vectors {
                let value = channels::<L, E, N>(&tokens.values, u, c, shape);
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
fn fold_transposed<L: RowLoad, E: Numeric, N: Size>(
    state: &mut Softmax<N>,
    tokens: &Tokens<E, N>,
    #[comptime] shape: Shape,
) {
    let lanes = comptime!(shape.lanes);
    let vectors = comptime!(shape.vectors());
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
            sums[u * heads + h] = f32::new(0.0);
        }
        #[unroll]
        for c in 0..vectors {
            // A vector is widened once, for all heads.
            let key = channels::<L, E, N>(&tokens.keys, u, c, shape);
            #[unroll]
            for h in 0..heads {
                let sum = sums[u * heads + h];
                sums[u * heads + h] = dot::<N>(state.query[h * vectors + c], key, sum, width);
            }
        }
        if comptime!(L::SCALED) {
            #[unroll]
            for h in 0..heads {
                sums[u * heads + h] = sums[u * heads + h] * tokens.key_scales[u];
            }
        }
    }
    let score = lanes_scatter_sum(&mut sums, n, lanes);

    let own = lane / spread / heads;
    let mut used = false.runtime();
    #[unroll]
    for u in 0..in_flight {
        used = used || (own == u && sees::<E, N>(tokens, u, state.hidden[0], shape));
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
    }
    #[unroll]
    for u in 0..in_flight {
        let mut weights = Array::<f32>::new(heads);
        #[unroll]
        for h in 0..heads {
            let from = comptime!((spread * (u * heads + h)) as u32);
            weights[h] = plane_shuffle(weight, base + from);
            if comptime!(L::SCALED) {
                weights[h] = weights[h] * tokens.value_scales[u];
            }
        }
        #[unroll]
        for c in 0..vectors {
            let value = channels::<L, E, N>(&tokens.values, u, c, shape);
            #[unroll]
            for h in 0..heads {
                state.accumulator[h * vectors + c] = fma(
                    Vector::new(weights[h]),
                    value,
                    state.accumulator[h * vectors + c],
                );
            }
        }
    }
}

#[cube]
fn fold<L: RowLoad, E: Numeric, N: Size>(
    state: &mut Softmax<N>,
    tokens: &Tokens<E, N>,
    #[comptime] shape: Shape,
) {
    if comptime!(shape.transposed) {
        fold_transposed::<L, E, N>(state, tokens, shape);
    } else {
        fold_tokens::<L, E, N>(state, tokens, shape);
    }
}

#[cube]
fn tokens<E: Numeric, N: Size>(#[comptime] shape: Shape) -> Tokens<E, N> {
    Tokens::<E, N> {
        keys: Array::new(comptime!(shape.in_flight * shape.loads)),
        values: Array::new(comptime!(shape.in_flight * shape.loads)),
        key_scales: Array::new(shape.in_flight),
        value_scales: Array::new(shape.in_flight),
        used: Array::new(shape.in_flight),
        left: Array::new(shape.in_flight),
    }
}

/// Attends to the first `n_slots` slots: an aligned run of `lanes` units walks tokens, `in_flight`
/// at a time; all query heads share each load of a key and a value.
#[cube]
pub(super) fn attend<L: RowLoad, E: Numeric, N: Size>(
    state: &mut Softmax<N>,
    keys: &RowsArg<E, N>,
    values: &RowsArg<E, N>,
    slots: &Slots,
    n_slots: usize,
    place: &Place,
    #[comptime] shape: Shape,
) {
    let step = comptime!(shape.units / shape.lanes * shape.in_flight);
    let n_tokens = n_slots * shape.page_size;
    if comptime!(shape.prefetch) {
        let mut even = tokens::<E, N>(shape);
        let mut odd = tokens::<E, N>(shape);
        load_tokens::<L, E, N>(
            &mut even, 0usize, keys, values, slots, n_slots, place, shape,
        );
        let mut token = 0usize;
        while token < n_tokens {
            load_tokens::<L, E, N>(
                &mut odd,
                token + step,
                keys,
                values,
                slots,
                n_slots,
                place,
                shape,
            );
            fold::<L, E, N>(state, &even, shape);
            token += step;
            if token < n_tokens {
                load_tokens::<L, E, N>(
                    &mut even,
                    token + step,
                    keys,
                    values,
                    slots,
                    n_slots,
                    place,
                    shape,
                );
                fold::<L, E, N>(state, &odd, shape);
                token += step;
            }
        }
    } else {
        let mut token = 0usize;
        while token < n_tokens {
            let mut now = tokens::<E, N>(shape);
            load_tokens::<L, E, N>(&mut now, token, keys, values, slots, n_slots, place, shape);
            fold::<L, E, N>(state, &now, shape);
            token += step;
        }
    }
}
