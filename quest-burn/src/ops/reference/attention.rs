use burn::tensor::{DType, Int, Tensor};

use super::{
    pool::{indices, pages_of_all_heads, pages_per_list},
    softmax::{MASKED, RunningSoftmax},
};
use crate::{
    cache::{LayerCache, Step},
    policy::Pages,
};

/// Tokens that are attended to at once; bounds the memory of gathered pages.
const BLOCK_TOKENS: usize = 8192;

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
    let [_, n_kv_heads, _, _] = cache.keys.dims();
    let per_block = BLOCK_TOKENS / step.page_size();
    let length = step.lengths()[sequence];
    let blocks = step.pages(sequence).chunks(per_block).enumerate();
    let blocks = blocks.map(|(block, pages)| {
        let keys = pages_of_all_heads(&cache.keys, pages).swap_dims(0, 1);
        let values = pages_of_all_heads(&cache.values, pages).swap_dims(0, 1);
        let first = block * per_block;
        // Only the last page can have rows that no token has filled.
        let partial = length < (first + pages.len()) * step.page_size();
        let ids = partial.then(|| {
            let ids = (first..first + pages.len())
                .map(|id| id as u32)
                .collect::<Vec<_>>();
            indices(&ids, &keys.device()).reshape([1, pages.len()])
        });
        Block { keys, values, ids }
    });
    attend(query, n_kv_heads, blocks, length, step.page_size(), scale)
}

/// `ids` are `[lists, k]` logical pages.
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
    let per_block = BLOCK_TOKENS / step.page_size();
    let blocks = (0..k).step_by(per_block).map(|first| {
        let ids = ids.clone().slice_dim(1, first..k.min(first + per_block));
        let [_, n] = ids.dims();
        let pool_pages = table.clone().select(0, ids.clone().reshape([lists * n]));
        let pool_pages = pool_pages.reshape([lists, n]);
        Block {
            keys: pages_per_list(&cache.keys, pool_pages.clone()),
            values: pages_per_list(&cache.values, pool_pages),
            ids: Some(ids),
        }
    });
    let length = step.lengths()[sequence];
    attend(query, lists, blocks, length, step.page_size(), scale)
}

/// Some pages of each list: keys and values `[lists, n, page_size, head_dim]`, and their logical
/// numbers, `[lists or 1, n]`, unless every row of them is filled.
struct Block {
    keys: Tensor<4>,
    values: Tensor<4>,
    ids: Option<Tensor<2, Int>>,
}

/// Attention of the query heads `[1, n_heads, head_dim]`, an equal number for each list.
fn attend(
    query: Tensor<3>,
    lists: usize,
    blocks: impl Iterator<Item = Block>,
    length: usize,
    page_size: usize,
    scale: f64,
) -> Tensor<3> {
    let [_, n_heads, head_dim] = query.dims();
    let dtype = query.dtype();
    let query =
        query
            .cast(DType::F32)
            .mul_scalar(scale)
            .reshape([lists, 1, n_heads / lists, head_dim]);
    blocks
        .map(|block| attend_block(query.clone(), block, length, page_size))
        .reduce(RunningSoftmax::merge)
        .expect("a sequence that gains a token holds a page")
        .finish(dtype)
        .reshape([1, n_heads, head_dim])
}

/// Pages stay separate matrices, so that nothing is copied to lay them end to end.
fn attend_block(query: Tensor<4>, block: Block, length: usize, page_size: usize) -> RunningSoftmax {
    let [lists, _, group, head_dim] = query.dims();
    let keys = block.keys.cast(DType::F32);
    let mut scores = query.matmul(keys.transpose()); // [lists, n, group, page_size]
    let [_, n, _, _] = scores.dims();
    if let Some(ids) = block.ids {
        let [id_lists, _] = ids.dims();
        let row = Tensor::<1, Int>::arange(0..page_size as i64, &scores.device());
        let position =
            ids.reshape([id_lists, n, 1, 1]) * page_size as i32 + row.reshape([1, 1, 1, page_size]);
        let empty = position.greater_equal_scalar(length as i32);
        scores = scores.mask_fill(empty.expand([lists, n, group, page_size]), MASKED);
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
