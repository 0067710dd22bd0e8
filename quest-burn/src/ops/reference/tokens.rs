use burn::tensor::{DType, Int, Tensor, kind::Basic};

use super::{
    attention::BLOCK_TOKENS,
    pool::{indices, rows_of_all_heads},
    scores::{of_lists, pad_pages},
    softmax::capped,
};
use crate::{
    cache::{KvRows, LayerCache, Step},
    pages::{KeyShift, PageScoring},
};

/// Attention of one sequence's newest token over its listed tokens.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - positions: `[lists, n]`, `lists` a multiple of the KV heads
/// - output: `[1, n_heads, head_dim]` and the weights `[n_heads, n]` in f32
pub fn token_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    positions: &Tensor<2, Int>,
    shift: Option<&KeyShift>,
    step: &Step,
    sequence: usize,
    scale: f64,
) -> (Tensor<3>, Tensor<2>) {
    let [_, n_heads, head_dim] = query.dims();
    let [lists, n] = positions.dims();
    let dtype = query.dtype();
    let rows = TokenRows::new(cache, positions, step, sequence);
    let weights = rows.weights(query, shift, scale);
    let output = rows
        .blocks(&cache.pool.values)
        .map(|(columns, values)| weights.clone().slice_dim(2, columns).matmul(values))
        .reduce(|sum, part| sum + part)
        .expect("a token attends to at least one");
    let output = output.cast(dtype).reshape([1, n_heads, head_dim]);
    debug_assert_eq!(weights.dims(), [lists, n_heads / lists, n]);
    (output, weights.reshape([n_heads, n]))
}

/// The attention of one sequence's newest token to some tokens, softmax over just these:
/// `[n_heads, n]` in f32. The values are not read.
pub fn token_weights(
    query: Tensor<3>,
    cache: &LayerCache,
    positions: &Tensor<2, Int>,
    step: &Step,
    sequence: usize,
    scale: f64,
) -> Tensor<2> {
    let [_, n_heads, _] = query.dims();
    let [_, n] = positions.dims();
    TokenRows::new(cache, positions, step, sequence)
        .weights(query, None, scale)
        .reshape([n_heads, n])
}

/// The rows of a pool that hold listed tokens.
struct TokenRows<'a> {
    cache: &'a LayerCache,
    sequence: usize,
    /// Rows of `[n_pages * n_kv_heads * page_size, head_dim]`, `[lists, n]`.
    rows: Tensor<2, Int>,
}

impl<'a> TokenRows<'a> {
    fn new(
        cache: &'a LayerCache,
        positions: &Tensor<2, Int>,
        step: &Step,
        sequence: usize,
    ) -> Self {
        let [_, n_kv_heads, page_size, _] = cache.pool.keys.dims();
        let [lists, n] = positions.dims();
        let device = positions.device();
        let heads = (0..lists).map(|list| (list * n_kv_heads / lists) as u32);
        let heads = indices(&heads.collect::<Vec<_>>(), &device).reshape([lists, 1]);
        let pages = positions.clone().div_scalar(page_size as i32);
        let offsets = positions.clone().remainder_scalar(page_size as i32);
        let table = indices(step.pages(sequence), &device);
        let pool_pages = table.select(0, pages.reshape([lists * n]));
        let pool_pages = pool_pages.reshape([lists, n]);
        Self {
            cache,
            sequence,
            rows: (pool_pages * n_kv_heads as i32 + heads) * page_size as i32 + offsets,
        }
    }

    /// Some columns of the lists at a time, and their rows `[lists, columns, head_dim]` in f32.
    fn blocks(&self, pool: &KvRows) -> impl Iterator<Item = (core::ops::Range<usize>, Tensor<3>)> {
        let [n_pages, n_kv_heads, page_size, head_dim] = pool.dims();
        let pool = pool.clone();
        let n_rows = n_pages * n_kv_heads * page_size;
        let [lists, n] = self.rows.dims();
        (0..n).step_by(BLOCK_TOKENS).map(move |first| {
            let columns = first..n.min(first + BLOCK_TOKENS);
            let rows = self.rows.clone().slice_dim(1, columns.clone());
            let rows = rows.reshape([lists * columns.len()]);
            let rows = pool.read(
                |pool| select_rows(pool, n_rows, rows.clone()),
                |pool| select_rows(pool, n_rows, rows.clone()),
            );
            let rows = rows.reshape([lists, columns.len(), head_dim]);
            (columns, rows.cast(DType::F32))
        })
    }

    /// Softmax weights of the query heads of each list, `[lists, group, n]`.
    fn weights(&self, query: Tensor<3>, shift: Option<&KeyShift>, scale: f64) -> Tensor<3> {
        let [_, n_heads, head_dim] = query.dims();
        let [lists, _] = self.rows.dims();
        let query = query
            .slice([self.sequence..self.sequence + 1])
            .cast(DType::F32)
            .mul_scalar(scale)
            .reshape([lists, n_heads / lists, head_dim]);
        let scores = self.blocks(&self.cache.pool.keys).map(|(columns, keys)| {
            let keys = match shift {
                Some(shift) => shifted(keys, columns.start, shift, self.sequence),
                None => keys,
            };
            query.clone().matmul(keys.transpose())
        });
        let scores = capped(Tensor::cat(scores.collect(), 2), self.cache.soft_cap());
        let weights = (scores.clone() - scores.max_dim(2)).exp();
        weights.clone() / weights.sum_dim(2)
    }
}

/// Some of the `n_rows` rows of a pool.
fn select_rows<K: Basic>(pool: &Tensor<4, K>, n_rows: usize, rows: Tensor<1, Int>) -> Tensor<2, K> {
    let [_, _, _, n] = pool.dims();
    pool.clone().reshape([n_rows, n]).select(0, rows)
}

/// Moves those keys `[lists, n, head_dim]` that are among the first of their lists; `start` is the
/// column of the first.
fn shifted(keys: Tensor<3>, start: usize, shift: &KeyShift, sequence: usize) -> Tensor<3> {
    let [_, n, _] = keys.dims();
    let moved = shift.first.saturating_sub(start).min(n);
    if moved == 0 || shift.by[sequence] == 0 {
        return keys;
    }
    let by = Tensor::full([1, moved], shift.by[sequence] as i32, &keys.device());
    let first = keys.clone().slice_dim(1, 0..moved).unsqueeze_dim(0);
    let first = shift.rope.shift(first, by).squeeze_dim(0);
    if moved == n {
        return first;
    }
    Tensor::cat(vec![first, keys.slice_dim(1, moved..n)], 1)
}

/// Reference of [`crate::ops::token_scores`].
pub fn token_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sequence: usize,
) -> Tensor<2> {
    let [_, n_heads, head_dim] = query.dims();
    let [_, n_kv_heads, page_size, _] = cache.pool.keys.dims();
    let group = n_heads / n_kv_heads;
    let query = query
        .slice([sequence..sequence + 1])
        .cast(DType::F32)
        .reshape([n_kv_heads, 1, group, head_dim]);
    let pages = step.pages(sequence).chunks(BLOCK_TOKENS / page_size);
    let scores = pages.map(|pages| {
        let keys = rows_of_all_heads(&cache.pool.keys, pages).swap_dims(0, 1);
        let scores = query.clone().matmul(keys.cast(DType::F32).transpose());
        // [n_kv_heads, pages, group, page_size]
        scores
            .swap_dims(1, 2)
            .reshape([n_heads, pages.len() * page_size])
    });
    Tensor::cat(scores.collect(), 1).slice_dim(1, 0..step.lengths()[sequence])
}

/// Reference of [`crate::ops::true_page_scores`].
pub fn true_page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    scoring: PageScoring,
) -> Tensor<3> {
    let [batch, n_heads, _] = query.dims();
    let [_, n_kv_heads, page_size, _] = cache.pool.keys.dims();
    let heads = scoring.lists(n_heads, n_kv_heads);
    let of_sequence = |sequence: usize| {
        let pages = step.pages(sequence).len();
        if pages == 0 {
            let none = Tensor::empty([1, heads, 0], (&query.device(), DType::F32));
            return pad_pages(none, step.max_pages());
        }
        let mut scores = token_scores(query.clone(), cache, step, sequence);
        let empty = pages * page_size - step.lengths()[sequence];
        if empty > 0 {
            let like = (&query.device(), DType::F32);
            scores = Tensor::cat(
                vec![scores, Tensor::full([n_heads, empty], f32::MIN, like)],
                1,
            );
        }
        let scores = scores
            .reshape([heads, n_heads / heads, pages, page_size])
            .max_dim(3)
            .squeeze_dim::<3>(3);
        let scores = of_lists(scores, scoring).reshape([1, heads, pages]);
        pad_pages(scores, step.max_pages())
    };
    Tensor::cat((0..batch).map(of_sequence).collect(), 0)
}
