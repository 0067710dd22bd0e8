use burn::tensor::{DType, Int, Tensor};

use super::{
    pool::pages_of_all_heads,
    softmax::{MASKED, RunningSoftmax, capped},
};
use crate::{
    cache::{LayerCache, Step},
    pages::Window,
};

/// Query tokens and key tokens of one block of scores; bounds memory whatever the prompt.
const QUERY_TOKENS: usize = 512;
const KEY_TOKENS: usize = 1024;

/// Reference of [`crate::ops::prefill_attention`].
pub fn prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    window_prefill_attention(
        query,
        cache,
        step,
        scale,
        Window::Sliding { tokens: usize::MAX },
    )
}

/// The same where a token sees those of its window.
pub fn window_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
    window: Window,
) -> Tensor<4> {
    assert!(
        window.tokens() > 0,
        "sliding window: expected at least 1 token, found 0"
    );
    let [batch, n_heads, tokens, head_dim] = query.dims();
    let zeros = |tokens| {
        Tensor::zeros(
            [1, n_heads, tokens, head_dim],
            (&query.device(), query.dtype()),
        )
    };
    let out = (0..batch).map(|sequence| {
        let gained = step.new_tokens(sequence);
        let mut blocks = Vec::new();
        for first in (0..gained).step_by(QUERY_TOKENS) {
            let range = first..gained.min(first + QUERY_TOKENS);
            let block = query
                .clone()
                .slice([sequence..sequence + 1])
                .slice_dim(2, range);
            let position = step.starts()[sequence] + first;
            let place = Place {
                step,
                sequence,
                position,
                window,
            };
            blocks.push(query_block(block, cache, &place, scale));
        }
        if gained < tokens {
            blocks.push(zeros(tokens - gained));
        }
        Tensor::cat(blocks, 2)
    });
    Tensor::cat(out.collect(), 0)
}

/// Where adjacent query tokens are.
struct Place<'a> {
    step: &'a Step,
    sequence: usize,
    /// Position of the first of them.
    position: usize,
    /// What each of them sees.
    window: Window,
}

/// Attention of adjacent query tokens `[1, n_heads, t, head_dim]`.
fn query_block(query: Tensor<4>, cache: &LayerCache, place: &Place<'_>, scale: f64) -> Tensor<4> {
    let &Place {
        step,
        sequence,
        position,
        window,
    } = place;
    let [_, n_heads, tokens, head_dim] = query.dims();
    let [_, n_kv_heads, _, _] = cache.pool.keys.dims();
    let group = n_heads / n_kv_heads;
    let dtype = query.dtype();
    let query =
        query
            .cast(DType::F32)
            .mul_scalar(scale)
            .reshape([n_kv_heads, group * tokens, head_dim]);
    let page_size = step.page_size();
    let length = step.lengths()[sequence];
    let visible = (position + tokens).div_ceil(page_size);
    let first_page = window.first(position) / page_size;
    let per_block = KEY_TOKENS / page_size;
    step.pages(sequence)[first_page..visible]
        .chunks(per_block)
        .enumerate()
        .map(|(block, pages)| {
            let first_key = first_page * page_size + block * KEY_TOKENS;
            let filled = 0..(pages.len() * page_size).min(length - first_key);
            let read =
                |pool| end_to_end(pages_of_all_heads(pool, pages)).slice_dim(1, filled.clone());
            let (keys, values) = (read(&cache.pool.keys), read(&cache.pool.values));
            let scores = query.clone().matmul(keys.transpose());
            let mut scores = capped(scores, cache.soft_cap());
            let [_, _, n_keys] = scores.dims();
            let is_past = window.first(position + tokens - 1) > first_key;
            if is_past || first_key + n_keys > position + 1 {
                let hidden = hidden(place, tokens, first_key, n_keys, &scores);
                let shape = [n_kv_heads, group, tokens, n_keys];
                scores = scores
                    .reshape(shape)
                    .mask_fill(hidden.expand(shape), MASKED)
                    .reshape([n_kv_heads, group * tokens, n_keys]);
            }
            let max = scores.clone().max_dim(2);
            let weights = (scores - max.clone()).exp();
            let sum = weights.clone().sum_dim(2);
            RunningSoftmax::new(max, sum, weights.matmul(values))
        })
        .reduce(RunningSoftmax::merge)
        .expect("a query token sees at least itself")
        .finish(dtype)
        .reshape([1, n_heads, tokens, head_dim])
}

/// Which keys a query token does not see, those behind it and those before its window:
/// `[1, 1, tokens, n_keys]`.
fn hidden(
    place: &Place<'_>,
    tokens: usize,
    first_key: usize,
    n_keys: usize,
    like: &Tensor<3>,
) -> Tensor<4, burn::tensor::Bool> {
    let range = |first: usize, n: usize| {
        Tensor::<1, Int>::arange(first as i64..(first + n) as i64, &like.device())
    };
    let query = range(place.position, tokens).reshape([1, 1, tokens, 1]);
    let key = range(first_key, n_keys).reshape([1, 1, 1, n_keys]);
    let shape = [1, 1, tokens, n_keys];
    let (key, query) = (key.expand(shape), query.expand(shape));
    let future = key.clone().greater(query.clone());
    let Ok(window) = i32::try_from(place.window.tokens()) else {
        return future;
    };
    let past = match place.window {
        Window::Sliding { .. } => key.lower_equal(query - window),
        Window::Chunk { .. } => key.lower(query.div_scalar(window).mul_scalar(window)),
    };
    future.bool_or(past)
}

/// `[pages, heads, page_size, head_dim]` -> `[heads, pages * page_size, head_dim]` in f32
fn end_to_end(pages: Tensor<4>) -> Tensor<3> {
    let [n, heads, page_size, head_dim] = pages.dims();
    pages
        .swap_dims(0, 1)
        .reshape([heads, n * page_size, head_dim])
        .cast(DType::F32)
}
