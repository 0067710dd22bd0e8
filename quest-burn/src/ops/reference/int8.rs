use burn::tensor::{Int, Tensor};

use super::pool::leading_run;
use crate::cache::{
    CHANNELS_PER_SCALE, CHANNELS_PER_WORD, Int8Digests, LayerCache, Step, integers_of_words,
    n_scales,
};

/// Reference of [`crate::ops::append`]'s last part: packs the digests of the pages that a step
/// writes anew.
pub fn quantize_digests(cache: &mut LayerCache, step: &Step) {
    let page_size = step.page_size();
    for sequence in 0..step.batch() {
        if step.new_tokens(sequence) == 0 {
            continue;
        }
        let first = step.starts()[sequence] / page_size;
        let last = step.lengths()[sequence].div_ceil(page_size);
        let mut pages = &step.pages(sequence)[first..last];
        while !pages.is_empty() {
            let run = leading_run(pages);
            pages = &pages[run.len()..];
            cache.pool.pack_pages(run);
        }
    }
}

/// The digests that packed ones stand for, in f32; behind each row comes the number for all channels,
/// where there is one.
///
/// # Shapes
///
/// - words, scales: those of some pages
/// - output: `[n_kv_heads, n_pages, rows, channels]`
pub(super) fn dequantized(words: Tensor<4, Int>, scales: Tensor<3>) -> Tensor<4> {
    let [heads, n_pages, rows, row] = words.dims();
    let [_, _, stored] = scales.dims();
    let head_dim = row * CHANNELS_PER_WORD;
    let groups = n_scales(head_dim);
    let scalar = (stored > groups).then(|| {
        let scalar = scales.clone().slice_dim(2, groups..stored);
        scalar
            .reshape([heads, n_pages, 1, 1])
            .expand([heads, n_pages, rows, 1])
    });
    let scales = scales.slice_dim(2, 0..groups);
    let integers = integers_of_words(words);
    let group = CHANNELS_PER_SCALE.min(head_dim);
    let scales = scales
        .reshape([heads, n_pages, 1, groups, 1])
        .expand([heads, n_pages, 1, groups, group])
        .reshape([heads, n_pages, 1, groups * group])
        .slice_dim(3, 0..head_dim);
    let digests = integers * scales;
    match scalar {
        Some(scalar) => Tensor::cat(vec![digests, scalar], 3),
        None => digests,
    }
}

/// Packed digests of the listed pages in f32, `[n_kv_heads, n, rows, channels]`.
pub(super) fn dequantized_pages(digests: &Int8Digests, pages: &[u32]) -> Tensor<4> {
    let run = leading_run(pages);
    let (words, scales) = (digests.words.clone(), digests.scales.clone());
    let (words, scales) = if run.len() == pages.len() {
        (words.slice_dim(1, run.clone()), scales.slice_dim(1, run))
    } else {
        let places = super::pool::indices(pages, &words.device());
        (words.select(1, places.clone()), scales.select(1, places))
    };
    dequantized(words, scales)
}
