//! Reading pages out of a pool.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData, kind::Basic};

use crate::cache::KvRows;

/// The longest range of adjacent pool pages at the start of `pages`.
pub(super) fn leading_run(pages: &[u32]) -> Range<usize> {
    let first = pages[0] as usize;
    let n = pages
        .iter()
        .enumerate()
        .take_while(|&(i, &page)| page as usize == first + i)
        .count();
    first..first + n
}

/// Pages of a pool `[n_pages, heads, rows, head_dim]` for all heads: a view where they are
/// adjacent, otherwise a copy of just those.
pub(super) fn pages_of_all_heads<K: Basic>(pool: &Tensor<4, K>, pages: &[u32]) -> Tensor<4, K> {
    let run = leading_run(pages);
    if run.len() == pages.len() {
        return pool.clone().slice([run]);
    }
    pool.clone().select(0, indices(pages, &pool.device()))
}

/// Keys or values of pages, for all heads; those in 8 bits in f32.
pub(super) fn rows_of_all_heads(pool: &KvRows, pages: &[u32]) -> Tensor<4> {
    pool.read(
        |pool| pages_of_all_heads(pool, pages),
        |pool| pages_of_all_heads(pool, pages),
    )
}

/// Keys or values of pages `[n_pages, heads, rows, head_dim]`, other ones for each of `lists` lists.
///
/// # Shapes
///
/// - pool_pages: `[lists, n]`, where `lists` is a multiple of the pool's heads; consecutive
///   lists read the same head
/// - output: `[lists, n, rows, head_dim]`; of rows in 8 bits in f32
pub(super) fn rows_per_list(pool: &KvRows, pool_pages: Tensor<2, Int>) -> Tensor<4> {
    pool.read(
        |pool| pages_per_list(pool, pool_pages.clone()),
        |pool| pages_per_list(pool, pool_pages.clone()),
    )
}

fn pages_per_list<K: Basic>(pool: &Tensor<4, K>, pool_pages: Tensor<2, Int>) -> Tensor<4, K> {
    let [n_pages, heads, rows, head_dim] = pool.dims();
    let [lists, n] = pool_pages.dims();
    let head = (0..lists)
        .map(|list| (list / (lists / heads)) as u32)
        .collect::<Vec<_>>();
    let head = indices(&head, &pool.device()).reshape([lists, 1]);
    let row = pool_pages * heads as i32 + head;
    pool.clone()
        .reshape([n_pages * heads, rows, head_dim])
        .select(0, row.reshape([lists * n]))
        .reshape([lists, n, rows, head_dim])
}

/// Host indices as a device tensor.
pub(super) fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values = values.iter().map(|&v| v as i32).collect::<Vec<_>>();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
