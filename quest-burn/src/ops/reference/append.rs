use std::ops::Range;

use burn::tensor::Tensor;

use super::pool::leading_run;
use crate::cache::{LayerCache, Step};

/// Reference of [`crate::ops::append`].
pub fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    let page_size = step.page_size();
    for sequence in 0..step.batch() {
        let pages = step.pages(sequence);
        let start = step.starts()[sequence];
        let end = step.lengths()[sequence];
        let mut position = start;
        while position < end {
            let first_page = position / page_size;
            let offset = position % page_size;
            let whole_pages = (end - position) / page_size;
            let run = if offset == 0 && whole_pages > 0 {
                leading_run(&pages[first_page..first_page + whole_pages])
            } else {
                let page = pages[first_page] as usize;
                page..page + 1
            };
            let rows = (run.len() * page_size - offset).min(end - position);
            let tokens = position - start..position - start + rows;
            let take = |t: &Tensor<4>| {
                t.clone()
                    .slice([sequence..sequence + 1])
                    .slice_dim(2, tokens.clone())
            };
            write(cache, run, offset, take(&keys), take(&values));
            position += rows;
        }
    }
}

/// Writes rows `[1, heads, n, head_dim]` into adjacent pages, `offset` rows into the first.
fn write(
    cache: &mut LayerCache,
    pages: Range<usize>,
    offset: usize,
    keys: Tensor<4>,
    values: Tensor<4>,
) {
    let (keys, values) = (by_page(keys, pages.len()), by_page(values, pages.len()));
    let [_, _, rows, _] = keys.dims();
    cache.pool.keys.write(pages.clone(), offset, keys);
    cache.pool.values.write(pages.clone(), offset, values);
    cache.pool.fold_pages(pages, offset + rows);
}

/// `[1, heads, pages * rows, head_dim]` -> `[pages, heads, rows, head_dim]`
fn by_page(rows: Tensor<4>, pages: usize) -> Tensor<4> {
    let [_, heads, n, head_dim] = rows.dims();
    rows.reshape([heads, pages, n / pages, head_dim])
        .swap_dims(0, 1)
}
