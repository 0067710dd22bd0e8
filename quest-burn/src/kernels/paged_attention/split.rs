use cubecl::prelude::*;

use super::super::row::lanes_sum;

/// Below any score; a softmax weight relative to it is 0 or, among its like, multiplies a sum of 0.
pub(super) const NO_SCORE: f32 = -1e30;

/// Pages that each split of a sequence reads; see `Partition`.
#[cube]
pub(super) fn pages_per_split(n_pages: usize, min_pages: u32, max_splits: u32) -> usize {
    let max_splits = max_splits as usize;
    max((n_pages + max_splits - 1) / max_splits, min_pages as usize)
}

/// One cube per split of the pages, `heads` query heads and sequence. An aligned run of `lanes`
/// units walks tokens, `in_flight` at a time, with an online softmax; all query heads share each
/// load of a key and a value.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn split_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    pages: &Tensor<i32>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    partial: &mut Tensor<f32>,
    weights: &mut Tensor<f32>,
    scale: f32,
    min_pages: u32,
    max_splits: u32,
    #[comptime] listed: bool,
    #[comptime] heads: usize,
    #[comptime] lanes: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[comptime] in_flight: usize,
    #[comptime] units: usize,
    #[comptime] page_size: usize,
    #[define(F)] _dtype: ElemType,
) {
    let n_pool_pages = keys.shape(0);
    let n_kv_heads = keys.shape(1);
    let n_heads = query.shape(1);
    let max_pages = page_table.shape(1);
    let lane = UNIT_POS as usize % lanes;
    let run = UNIT_POS as usize / lanes;
    let runs = comptime!(units / lanes);
    let row = comptime!(lanes * vectors);
    let width = query.vector_size();
    let split = CUBE_POS_X as usize;
    let n_splits = CUBE_COUNT_X as usize;
    let sequence = CUBE_POS_Z as usize;
    let query_head = CUBE_POS_Y as usize * heads;
    let kv_head = query_head * n_kv_heads / n_heads;

    let length = lengths[sequence] as usize;
    let mut n_pages = min((length + page_size - 1) / page_size, max_pages);
    let mut list = 0usize;
    if comptime!(listed) {
        let list_heads = pages.shape(1);
        let k = pages.shape(2);
        list = (sequence * list_heads + query_head * list_heads / n_heads) * k;
        n_pages = min(n_pages, k);
    }
    let per_split = pages_per_split(n_pages, min_pages, max_splits);
    let first_slot = split * per_split;
    if first_slot >= n_pages {
        // The merge leaves a split with a total of 0 out.
        if (UNIT_POS as usize) < heads {
            let head = sequence * n_heads + query_head + UNIT_POS as usize;
            weights[(head * n_splits + split) * 2] = f32::new(NO_SCORE);
            weights[(head * n_splits + split) * 2 + 1] = f32::new(0.0);
        }
        terminate!();
    }
    let n_tokens = (min(first_slot + per_split, n_pages) - first_slot) * page_size;

    let mut q = Array::<Vector<f32, N>>::new(comptime!(heads * vectors));
    let mut out = Array::<Vector<f32, N>>::new(comptime!(heads * vectors));
    let mut highest = Array::<f32>::new(heads);
    let mut total = Array::<f32>::new(heads);
    #[unroll]
    for h in 0..heads {
        highest[h] = f32::new(NO_SCORE);
        total[h] = f32::new(0.0);
        #[unroll]
        for v in 0..vectors {
            let at = (sequence * n_heads + query_head + h) * row + v * lanes + lane;
            q[h * vectors + v] = Vector::<f32, N>::cast_from(query[at]) * Vector::new(scale);
            out[h * vectors + v] = Vector::new(0.0f32);
        }
    }

    let step = comptime!(runs * in_flight);
    let mut token = 0usize;
    while token < n_tokens {
        let mut k = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
        let mut v = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
        let mut used = Array::<bool>::new(in_flight);
        #[unroll]
        for u in 0..in_flight {
            let t = token + u * runs + run;
            let slot = min(first_slot + t / page_size, n_pages - 1);
            let mut page = slot;
            let mut valid = t < n_tokens;
            if comptime!(listed) {
                let id = pages[list + slot];
                valid = valid && id >= 0i32;
                page = max(id, 0i32) as usize;
            }
            valid = valid && page * page_size + t % page_size < length;
            used[u] = valid;
            // What is not used reads the first token instead: rows past the length are undefined.
            page = select(valid, page, 0usize);
            let within = select(valid, t % page_size, 0usize);
            let pool_page = page_table[sequence * max_pages + page] as usize;
            let pool_page = min(pool_page, n_pool_pages - 1);
            let at = ((pool_page * n_kv_heads + kv_head) * page_size + within) * row + lane;
            #[unroll]
            for c in 0..vectors {
                k[u * vectors + c] = keys[at + c * lanes];
                v[u * vectors + c] = values[at + c * lanes];
            }
        }
        #[unroll]
        for h in 0..heads {
            let mut scores = Array::<f32>::new(in_flight);
            let mut new_highest = highest[h];
            #[unroll]
            for u in 0..in_flight {
                let mut products = Vector::<f32, N>::new(0.0f32);
                #[unroll]
                for c in 0..vectors {
                    let key = Vector::<f32, N>::cast_from(k[u * vectors + c]);
                    products = fma(q[h * vectors + c], key, products);
                }
                let score = lanes_sum(products.vector_sum(), lanes);
                scores[u] = select(used[u], score, f32::new(NO_SCORE));
                new_highest = max(new_highest, scores[u]);
            }
            let correction = f32::exp(highest[h] - new_highest);
            highest[h] = new_highest;
            let mut sum = total[h] * correction;
            #[unroll]
            for c in 0..vectors {
                out[h * vectors + c] = out[h * vectors + c] * Vector::new(correction);
            }
            #[unroll]
            for u in 0..in_flight {
                let weight = select(used[u], f32::exp(scores[u] - new_highest), f32::new(0.0));
                sum += weight;
                #[unroll]
                for c in 0..vectors {
                    let value = Vector::<f32, N>::cast_from(v[u * vectors + c]);
                    out[h * vectors + c] = fma(Vector::new(weight), value, out[h * vectors + c]);
                }
            }
            total[h] = sum;
        }
        token += step;
    }

    // The runs of a plane, then the planes of the cube.
    let plane_steps = comptime!((plane / lanes).ilog2());
    #[unroll]
    for h in 0..heads {
        #[unroll]
        for s in 0..plane_steps {
            let mask = comptime!((lanes as u32) << s);
            let other_highest = plane_shuffle_xor(highest[h], mask);
            let new_highest = max(highest[h], other_highest);
            let correction = f32::exp(highest[h] - new_highest);
            let other_correction = f32::exp(other_highest - new_highest);
            highest[h] = new_highest;
            total[h] = total[h] * correction + plane_shuffle_xor(total[h], mask) * other_correction;
            #[unroll]
            for c in 0..vectors {
                let own = out[h * vectors + c];
                let other = plane_shuffle_xor(own, mask);
                out[h * vectors + c] =
                    own * Vector::new(correction) + other * Vector::new(other_correction);
            }
        }
    }
    let planes = comptime!(units / plane);
    let own_plane = UNIT_POS as usize / plane;
    let mut shared_out = Shared::<[Vector<f32, N>]>::new_slice(comptime!(planes * heads * row));
    let mut shared_highest = Shared::<[f32]>::new_slice(comptime!(planes * heads));
    let mut shared_total = Shared::<[f32]>::new_slice(comptime!(planes * heads));
    if UNIT_POS as usize % plane < lanes {
        #[unroll]
        for h in 0..heads {
            #[unroll]
            for c in 0..vectors {
                let at = (own_plane * heads + h) * row + c * lanes + lane;
                shared_out[at] = out[h * vectors + c];
            }
            if lane == 0 {
                shared_highest[own_plane * heads + h] = highest[h];
                shared_total[own_plane * heads + h] = total[h];
            }
        }
    }
    sync_cube();

    let mut element = UNIT_POS as usize;
    while element < comptime!(heads * row) {
        let h = element / row;
        let c = element % row;
        let mut highest = f32::new(NO_SCORE);
        #[unroll]
        for p in 0..planes {
            highest = max(highest, shared_highest[p * heads + h]);
        }
        let mut total = f32::new(0.0);
        let mut out = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for p in 0..planes {
            let weight = f32::exp(shared_highest[p * heads + h] - highest);
            total += weight * shared_total[p * heads + h];
            out = fma(Vector::new(weight), shared_out[(p * heads + h) * row + c], out);
        }
        let at = (sequence * n_heads + query_head + h) * n_splits + split;
        #[unroll]
        for x in 0..width {
            partial[(at * row + c) * width + x] = out.extract(x);
        }
        if c == 0 {
            weights[at * 2] = highest;
            weights[at * 2 + 1] = total;
        }
        element += units;
    }
}
