use burn::tensor::{DType, Int, Tensor};

use super::{
    pool::{indices, rows_of_all_heads, rows_per_list},
    softmax::{MASKED, RunningSoftmax, capped},
};
use crate::{
    cache::{KvRows, LayerCache, Step},
    pages::{PastPages, Window},
};

/// Query tokens and key tokens of one block of scores; bounds memory whatever the prompt.
pub(super) const QUERY_TOKENS: usize = 512;
pub(super) const KEY_TOKENS: usize = 1024;

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
    let attend = |query, place: &Place<'_>| query_block(query, cache, place, scale);
    by_query_blocks(query, step, window, attend)
}

/// Reference of [`crate::ops::sparse_prefill_attention`].
pub fn sparse_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    past: &PastPages,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let everything = Window::Sliding { tokens: usize::MAX };
    by_query_blocks(query, step, everything, |query, place| {
        match past.cover(place.sequence, step) {
            // Lists of the whole past are the dense case, computed in the same way.
            true => query_block(query, cache, place, scale),
            false => sparse_block(query, cache, past, place, scale),
        }
    })
}

/// Attention of each sequence's new tokens, some adjacent ones at a time; zeros past them.
fn by_query_blocks(
    query: Tensor<4>,
    step: &Step,
    window: Window,
    attend: impl Fn(Tensor<4>, &Place<'_>) -> Tensor<4>,
) -> Tensor<4> {
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
            blocks.push(attend(block, &place));
        }
        if gained < tokens {
            blocks.push(zeros(tokens - gained));
        }
        Tensor::cat(blocks, 2)
    });
    Tensor::cat(out.collect(), 0)
}

/// Attention of adjacent query tokens to listed pages of the past, and to the new tokens up to their own.
fn sparse_block(
    query: Tensor<4>,
    cache: &LayerCache,
    past: &PastPages,
    place: &Place<'_>,
    scale: f64,
) -> Tensor<4> {
    let (step, sequence) = (place.step, place.sequence);
    let shape = query.dims();
    let dtype = query.dtype();
    let [_, n_kv_heads, page_size, _] = cache.pool.keys.dims();
    let query = by_kv_head(query, n_kv_heads, scale);
    let n_past = step.past_pages(sequence);
    let own = causal_part(query.clone(), cache, place, shape[2], n_past);
    let k = past.counts[sequence];
    let ids = past.ids.clone().slice([sequence..sequence + 1]);
    let ids: Tensor<2, Int> = ids.slice_dim(2, 0..k).squeeze_dim(0);
    let table = indices(step.pages(sequence), &ids.device());
    let blocks = (0..k).step_by(KEY_TOKENS / page_size).map(|first| {
        let ids = ids
            .clone()
            .slice_dim(1, first..k.min(first + KEY_TOKENS / page_size));
        let [_, n] = ids.dims();
        let pages = table.clone().select(0, ids.reshape([n_kv_heads * n]));
        let pages = pages.reshape([n_kv_heads, n]);
        let read = |pool: &KvRows| {
            let [_, _, page_size, head_dim] = pool.dims();
            rows_per_list(pool, pages.clone())
                .reshape([n_kv_heads, n * page_size, head_dim])
                .cast(DType::F32)
        };
        let scores = query.clone().matmul(read(&cache.pool.keys).transpose());
        softmax_part(capped(scores, cache.soft_cap()), read(&cache.pool.values))
    });
    let attended = blocks.chain([own]).reduce(RunningSoftmax::merge);
    let attended = attended.expect("the new tokens are a part");
    attended.finish(dtype).reshape(shape)
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

/// Queries of adjacent tokens `[1, n_heads, t, head_dim]`, scaled, those of a KV head together:
/// `[n_kv_heads, group * t, head_dim]`.
pub(super) fn by_kv_head(query: Tensor<4>, n_kv_heads: usize, scale: f64) -> Tensor<3> {
    let [_, n_heads, tokens, head_dim] = query.dims();
    let rows = n_heads / n_kv_heads * tokens;
    query
        .cast(DType::F32)
        .mul_scalar(scale)
        .reshape([n_kv_heads, rows, head_dim])
}

/// Attention of adjacent query tokens `[1, n_heads, t, head_dim]` to all that they see.
fn query_block(query: Tensor<4>, cache: &LayerCache, place: &Place<'_>, scale: f64) -> Tensor<4> {
    let shape = query.dims();
    let dtype = query.dtype();
    let query = by_kv_head(query, cache.pool.keys.dims()[1], scale);
    let first_page = place.window.first(place.position) / place.step.page_size();
    let attended = causal_part(query, cache, place, shape[2], first_page);
    attended.finish(dtype).reshape(shape)
}

/// The part of the pages from `first_page` on, of which a token sees the keys up to its own.
fn causal_part(
    query: Tensor<3>,
    cache: &LayerCache,
    place: &Place<'_>,
    tokens: usize,
    first_page: usize,
) -> RunningSoftmax {
    let &Place {
        step,
        sequence,
        position,
        window,
    } = place;
    let [n_kv_heads, rows, _] = query.dims();
    let page_size = step.page_size();
    let length = step.lengths()[sequence];
    let visible = (position + tokens).div_ceil(page_size);
    let per_block = KEY_TOKENS / page_size;
    step.pages(sequence)[first_page..visible]
        .chunks(per_block)
        .enumerate()
        .map(|(block, pages)| {
            let first_key = first_page * page_size + block * KEY_TOKENS;
            let filled = 0..(pages.len() * page_size).min(length - first_key);
            let read =
                |pool| end_to_end(rows_of_all_heads(pool, pages)).slice_dim(1, filled.clone());
            let (keys, values) = (read(&cache.pool.keys), read(&cache.pool.values));
            let scores = query.clone().matmul(keys.transpose());
            let mut scores = capped(scores, cache.soft_cap());
            let [_, _, n_keys] = scores.dims();
            let is_past = window.first(position + tokens - 1) > first_key;
            if is_past || first_key + n_keys > position + 1 {
                let hidden = hidden(place, tokens, first_key, n_keys, &scores);
                let shape = [n_kv_heads, rows / tokens, tokens, n_keys];
                scores = scores
                    .reshape(shape)
                    .mask_fill(hidden.expand(shape), MASKED)
                    .reshape([n_kv_heads, rows, n_keys]);
            }
            softmax_part(scores, values)
        })
        .reduce(RunningSoftmax::merge)
        .expect("a query token sees at least itself")
}

pub(super) fn softmax_part(scores: Tensor<3>, values: Tensor<3>) -> RunningSoftmax {
    let max = scores.clone().max_dim(2);
    let weights = (scores - max.clone()).exp();
    let sum = weights.clone().sum_dim(2);
    RunningSoftmax::new(max, sum, weights.matmul(values))
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
pub(super) fn end_to_end(pages: Tensor<4>) -> Tensor<3> {
    let [n, heads, page_size, head_dim] = pages.dims();
    pages
        .swap_dims(0, 1)
        .reshape([heads, n * page_size, head_dim])
        .cast(DType::F32)
}
