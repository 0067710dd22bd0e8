use std::ops::Range;

use burn::tensor::{Bool, DType, Int, Tensor};

use super::{
    pool::{indices, rows_of_all_heads, rows_per_list},
    softmax::{MASKED, RunningSoftmax, capped},
};
use crate::{
    cache::{LayerCache, Step},
    pages::Pages,
};

/// Tokens that are attended to at once; bounds the memory of gathered pages.
pub(super) const BLOCK_TOKENS: usize = 8192;

/// Reference of [`crate::ops::paged_attention`].
pub fn paged_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    let [batch, n_heads, head_dim] = query.dims();
    let out = (0..batch).map(|sequence| {
        if step.new_tokens(sequence) == 0 {
            return Tensor::zeros([1, n_heads, head_dim], (&query.device(), query.dtype()));
        }
        let query = query.clone().slice([sequence..sequence + 1]);
        let n_pages = step.pages(sequence).len();
        match pages {
            Pages::Tokens(_) => unreachable!("lists of tokens have an operation of their own"),
            // A list of every page is the dense case, computed in the same way.
            Pages::Listed { ids, counts } if counts[sequence] < n_pages => {
                let ids = ids.clone().slice([sequence..sequence + 1]);
                let ids = ids.slice_dim(2, 0..counts[sequence]).squeeze_dim(0);
                over_listed_pages(query, cache, ids, step, sequence, scale)
            }
            _ => over_all_pages(query, cache, step, sequence, scale),
        }
    });
    Tensor::cat(out.collect(), 0)
}

fn over_all_pages(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sequence: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, n_kv_heads, _, _] = cache.pool.keys.dims();
    let read = |pages: &[u32]| Block {
        keys: rows_of_all_heads(&cache.pool.keys, pages).swap_dims(0, 1),
        values: rows_of_all_heads(&cache.pool.values, pages).swap_dims(0, 1),
    };
    let pages = step.pages(sequence);
    let (before, newest) = pages.split_at(pages.len() - 1);
    let ids = indices(&[before.len() as u32], &query.device()).reshape([1, 1]);
    let newest = read(newest).without_empty_rows(ids, step.lengths()[sequence]);
    let before = before.chunks(BLOCK_TOKENS / step.page_size()).map(read);
    attend(query, n_kv_heads, before, newest, scale, cache.soft_cap())
}

/// `ids` are `[lists, k]` logical pages, ascending.
fn over_listed_pages(
    query: Tensor<3>,
    cache: &LayerCache,
    ids: Tensor<2, Int>,
    step: &Step,
    sequence: usize,
    scale: f64,
) -> Tensor<3> {
    let [lists, k] = ids.dims();
    let table = indices(step.pages(sequence), &ids.device());
    let read = |columns: Range<usize>| {
        let ids = ids.clone().slice_dim(1, columns);
        let [_, n] = ids.dims();
        let pool_pages = table.clone().select(0, ids.clone().reshape([lists * n]));
        let pool_pages = pool_pages.reshape([lists, n]);
        let keys = rows_per_list(&cache.pool.keys, pool_pages.clone());
        let values = rows_per_list(&cache.pool.values, pool_pages);
        (Block { keys, values }, ids)
    };
    let (last, ids_of_last) = read(k - 1..k);
    let last = last.without_empty_rows(ids_of_last, step.lengths()[sequence]);
    let per_block = BLOCK_TOKENS / step.page_size();
    let before = (0..k - 1)
        .step_by(per_block)
        .map(|first| read(first..(k - 1).min(first + per_block)).0);
    attend(query, lists, before, last, scale, cache.soft_cap())
}

/// Some pages of each list: keys and values `[lists, n, page_size, head_dim]`.
struct Block {
    keys: Tensor<4>,
    values: Tensor<4>,
}

/// The last page of each list, of which some rows may hold no token.
struct LastPage {
    block: Block,
    /// `[lists or 1, 1, 1, page_size]`
    empty: Tensor<4, Bool>,
}

impl Block {
    /// `ids` are the logical numbers `[lists or 1, 1]` of these pages. Only the newest page of a
    /// sequence has empty rows, and lists ascend: it can only be the last one.
    fn without_empty_rows(self, ids: Tensor<2, Int>, length: usize) -> LastPage {
        let [lists, _, page_size, head_dim] = self.values.dims();
        let [id_lists, _] = ids.dims();
        let row = Tensor::<1, Int>::arange(0..page_size as i64, &ids.device());
        let position =
            ids.reshape([id_lists, 1, 1, 1]) * page_size as i32 + row.reshape([1, 1, 1, page_size]);
        let empty = position.greater_equal_scalar(length as i32);
        // What lies in an empty row is left from another sequence; if it is NaN or infinite, a
        // weight of zero does not cancel it.
        let rows = empty.clone().swap_dims(2, 3);
        let values = self
            .values
            .mask_fill(rows.expand([lists, 1, page_size, head_dim]), 0.0);
        LastPage {
            block: Block { values, ..self },
            empty,
        }
    }
}

/// Attention of the query heads `[1, n_heads, head_dim]`, an equal number for each list.
fn attend(
    query: Tensor<3>,
    lists: usize,
    before: impl Iterator<Item = Block>,
    last: LastPage,
    scale: f64,
    cap: Option<f64>,
) -> Tensor<3> {
    let [_, n_heads, head_dim] = query.dims();
    let dtype = query.dtype();
    let query =
        query
            .cast(DType::F32)
            .mul_scalar(scale)
            .reshape([lists, 1, n_heads / lists, head_dim]);
    let last = attend_block(query.clone(), last.block, Some(last.empty), cap);
    before
        .map(|block| attend_block(query.clone(), block, None, cap))
        .fold(last, RunningSoftmax::merge)
        .finish(dtype)
        .reshape([1, n_heads, head_dim])
}

/// Pages stay separate matrices, so that nothing is copied to lay them end to end.
fn attend_block(
    query: Tensor<4>,
    block: Block,
    empty: Option<Tensor<4, Bool>>,
    cap: Option<f64>,
) -> RunningSoftmax {
    let [lists, _, group, head_dim] = query.dims();
    let keys = block.keys.cast(DType::F32);
    // [lists, n, group, page_size]
    let mut scores = capped(query.matmul(keys.transpose()), cap);
    if let Some(empty) = empty {
        let shape = scores.dims();
        scores = scores.mask_fill(empty.expand(shape), MASKED);
    }
    let max = scores.clone().max_dim(3).max_dim(1); // [lists, 1, group, 1]
    let weights = (scores - max.clone()).exp();
    let sum = weights.clone().sum_dim(3).sum_dim(1);
    let weighted = weights.matmul(block.values.cast(DType::F32)).sum_dim(1);
    RunningSoftmax::new(
        max.reshape([lists, group, 1]),
        sum.reshape([lists, group, 1]),
        weighted.reshape([lists, group, head_dim]),
    )
}
