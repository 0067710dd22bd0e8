use burn::tensor::{Int, Tensor};

use super::{
    pool::rows_of_all_heads,
    prefill::{KEY_TOKENS, QUERY_TOKENS, by_kv_head, end_to_end, softmax_part},
    softmax::{MASKED, RunningSoftmax, capped},
};
use crate::cache::{LayerCache, Step};

/// Reference of [`crate::ops::positioned_prefill_attention`].
pub fn positioned_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    positions: &Tensor<1, Int>,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let [_, n_heads, tokens, head_dim] = query.dims();
    let [_, n_kv_heads, _, _] = cache.pool.keys.dims();
    let dtype = query.dtype();
    let blocks = (0..tokens).step_by(QUERY_TOKENS).map(|first| {
        let n = QUERY_TOKENS.min(tokens - first);
        let block = query.clone().slice_dim(2, first..first + n);
        let place = step.starts()[0] + first;
        let own = positions.clone().slice([place..place + n]);
        let block = by_kv_head(block, n_kv_heads, scale);
        let attended = up_to_own_position(block, own, cache, positions, step);
        attended.finish(dtype).reshape([1, n_heads, n, head_dim])
    });
    Tensor::cat(blocks.collect(), 2)
}

/// Attention of query tokens at the positions `own` to the tokens that are not behind them.
fn up_to_own_position(
    query: Tensor<3>,
    own: Tensor<1, Int>,
    cache: &LayerCache,
    positions: &Tensor<1, Int>,
    step: &Step,
) -> RunningSoftmax {
    let [n_kv_heads, rows, _] = query.dims();
    let [n] = own.dims();
    let (page_size, length) = (step.page_size(), step.lengths()[0]);
    step.pages(0)
        .chunks(KEY_TOKENS / page_size)
        .enumerate()
        .map(|(block, pages)| {
            let first_key = block * KEY_TOKENS;
            let n_keys = (pages.len() * page_size).min(length - first_key);
            let read = |pool| end_to_end(rows_of_all_heads(pool, pages)).slice_dim(1, 0..n_keys);
            let scores = query.clone().matmul(read(&cache.pool.keys).transpose());
            let keys = positions.clone().slice([first_key..first_key + n_keys]);
            let keys = keys.reshape([1, 1, 1, n_keys]).expand([1, 1, n, n_keys]);
            let queries = own.clone().reshape([1, 1, n, 1]).expand([1, 1, n, n_keys]);
            let shape = [n_kv_heads, rows / n, n, n_keys];
            let scores = capped(scores, cache.soft_cap())
                .reshape(shape)
                .mask_fill(keys.greater(queries).expand(shape), MASKED)
                .reshape([n_kv_heads, rows, n_keys]);
            softmax_part(scores, read(&cache.pool.values))
        })
        .reduce(RunningSoftmax::merge)
        .expect("a query token sees at least itself")
}
