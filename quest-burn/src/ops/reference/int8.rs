use burn::tensor::{DType, Int, Tensor};

use super::pool::leading_run;
use crate::{
    cache::{
        CHANNELS_PER_SCALE, CHANNELS_PER_WORD, Int8Digests, LEAST_SCALE, LayerCache, OUTWARD,
        SCALE_OF_LARGEST, Step, n_scales,
    },
    digest::DigestKind,
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
            quantize_pages(cache, run);
        }
    }
}

/// Packs the digests of adjacent pool pages anew, where the cache has packed digests.
pub fn quantize_pages(cache: &mut LayerCache, pages: core::ops::Range<usize>) {
    let Some(packed) = &mut cache.int8_digests else {
        return;
    };
    let [_, _, _, head_dim] = cache.keys.dims();
    let digests = cache.digests.clone().slice([pages.clone()]);
    let (words, scales) = quantized(cache.digest, digests, head_dim);
    let [heads, n, rows, row] = words.dims();
    let [_, _, groups] = scales.dims();
    debug_assert_eq!(n, pages.len());
    let place = [0..heads, pages.clone(), 0..rows, 0..row];
    packed.words.inplace(|pool| pool.slice_assign(place, words));
    let place = [0..heads, pages, 0..groups];
    packed
        .scales
        .inplace(|pool| pool.slice_assign(place, scales));
}

/// Words and scales of digests, as [`Int8Digests`] has them.
///
/// # Shapes
///
/// - digests: `[n_pages, n_kv_heads, rows, channels]`
pub fn quantized(
    kind: DigestKind,
    digests: Tensor<4>,
    head_dim: usize,
) -> (Tensor<4, Int>, Tensor<3>) {
    let [n_pages, heads, rows, _] = digests.dims();
    let groups = n_scales(head_dim);
    let group = CHANNELS_PER_SCALE.min(head_dim);
    let digests = digests.cast(DType::F32).swap_dims(0, 1);
    let scalar =
        (kind.layout().scalar).then(|| digests.clone().slice_dim(3, head_dim..head_dim + 1));
    let digests = digests.slice_dim(3, 0..head_dim);
    let missing = groups * group - head_dim;
    let digests = match missing {
        0 => digests,
        _ => {
            let zeros = Tensor::zeros(
                [heads, n_pages, rows, missing],
                (&digests.device(), DType::F32),
            );
            Tensor::cat(vec![digests, zeros], 3)
        }
    };
    let digests: Tensor<5> = digests.reshape([heads, n_pages, rows, groups, group]);
    let largest = digests.clone().abs().max_dim(4).max_dim(2);
    let scales = (largest * SCALE_OF_LARGEST).clamp_min(LEAST_SCALE);

    let quotients = digests / scales.clone();
    let rounded = if kind.is_bound() {
        let outward = quotients.clone().abs() * OUTWARD;
        let row = |t: &Tensor<5>, i: usize| t.clone().slice_dim(2, i..i + 1);
        let minima = (row(&quotients, 0) - row(&outward, 0)).floor();
        let maxima = (row(&quotients, 1) + row(&outward, 1)).ceil();
        Tensor::cat(vec![minima, maxima], 2)
    } else {
        (quotients + 0.5).floor()
    };
    // Pages that hold no token may hold anything, and some backends refuse to convert NaN.
    let not_a_number = rounded.clone().is_nan();
    let integers = rounded
        .mask_fill(not_a_number, 0.0)
        .int()
        .cast(DType::I32)
        .reshape([heads, n_pages, rows, groups * group])
        .slice_dim(3, 0..head_dim);
    let scales = scales.reshape([heads, n_pages, groups]);
    let scales = match scalar {
        Some(scalar) => Tensor::cat(vec![scales, scalar.reshape([heads, n_pages, 1])], 2),
        None => scales,
    };
    (packed(integers), scales)
}

/// `[.., n]` of integers from -128 to 127 -> `[.., n / 4]` words.
fn packed(integers: Tensor<4, Int>) -> Tensor<4, Int> {
    let [heads, n_pages, rows, n] = integers.dims();
    let words = n / CHANNELS_PER_WORD;
    let integers: Tensor<5, Int> =
        integers.reshape([heads, n_pages, rows, words, CHANNELS_PER_WORD]);
    let byte = |i: usize| integers.clone().slice_dim(4, i..i + 1);
    // The highest byte has the sign of the word; nothing overflows.
    let word = (0..CHANNELS_PER_WORD - 1)
        .fold(byte(CHANNELS_PER_WORD - 1) * (1 << 24), |word, i| {
            word + byte(i).bitwise_and_scalar(0xff) * (1 << (8 * i))
        });
    word.reshape([heads, n_pages, rows, words])
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
    let bytes = (0..CHANNELS_PER_WORD).map(|i| {
        let byte = words.clone().bitwise_right_shift_scalar(8 * i as i32);
        // From 0 to 255, then with its sign; some backends refuse to shift bits out on top.
        byte.bitwise_and_scalar(0xff).bitwise_xor_scalar(0x80) - 0x80
    });
    let integers: Tensor<5, Int> = Tensor::stack(bytes.collect(), 4);
    let integers = integers
        .reshape([heads, n_pages, rows, head_dim])
        .float()
        .cast(DType::F32);
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
