//! Listed pages of the past as a page table.

use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::{
    cache::{Sequences, Step},
    pages::PastPages,
};

/// Where the tokens are as if the pages that are not listed had never been there: the page table has a
/// row for each KV head of each sequence, `[batch * n_kv_heads, pages]`. Attention that is causal in
/// these positions is what the lists ask for.
pub(super) fn sequences(past: &PastPages, step: &Step) -> Sequences {
    let [batch, heads, _] = past.ids.dims();
    let device = past.ids.device();
    let table = step.device_page_table();
    let rows = (0..batch).map(|sequence| {
        let k = past.counts[sequence];
        let row = table.clone().slice([sequence..sequence + 1]);
        let row: Tensor<1, Int> = row.squeeze_dim(0);
        let mut parts = Vec::new();
        if k > 0 {
            let ids = past.ids.clone().slice([sequence..sequence + 1]);
            let ids = ids.slice_dim(2, 0..k).reshape([heads * k]);
            parts.push(row.clone().select(0, ids).reshape([heads, k]));
        }
        if step.new_tokens(sequence) > 0 {
            let own = step.past_pages(sequence)..step.pages(sequence).len();
            let n = own.len();
            parts.push(row.slice([own]).reshape([1, n]).expand([heads, n]));
        }
        parts
    });
    let rows = rows.collect::<Vec<_>>();
    let length = |parts: &Vec<Tensor<2, Int>>| parts.iter().map(|part| part.dims()[1]).sum();
    let longest: usize = rows.iter().map(length).max().unwrap_or(0);
    let rows = rows.into_iter().map(|mut parts| {
        let missing = longest - length(&parts);
        if missing > 0 {
            let none = Tensor::zeros([heads, missing], (&device, table.dtype()));
            parts.push(none);
        }
        Tensor::cat(parts, 1)
    });
    let starts = (0..batch).map(|sequence| past.start(sequence, step));
    let lengths = (0..batch).map(|sequence| past.start(sequence, step) + step.new_tokens(sequence));
    let counts = |counts: Vec<usize>| {
        let counts = counts.into_iter().map(|n| n as i32).collect::<Vec<_>>();
        let counts = TensorData::new(counts, [batch]);
        Tensor::<1, Int>::from_data(counts, (&device, DType::I32))
    };
    Sequences {
        page_table: Tensor::cat(rows.collect(), 0),
        starts: counts(starts.collect()),
        lengths: counts(lengths.collect()),
    }
}
