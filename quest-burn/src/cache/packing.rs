//! Digests in 8 bits, made in tensor operations: what [`Int8Digests`] says of them.

use core::ops::Range;

use burn::tensor::{DType, Int, Tensor};

use super::{
    CHANNELS_PER_SCALE, CHANNELS_PER_WORD, Digests, KvPool, MIN_SCALE, OUTWARD, SCALE_OF_LARGEST,
    digests::n_scales,
};
use crate::digest::DigestKind;

impl KvPool {
    /// Makes the digests of adjacent pages that hold `rows` keys each.
    pub(crate) fn fold_pages(&mut self, pages: Range<usize>, rows: usize) {
        let [_, heads, _, _] = self.keys.dims();
        let in_row = |n: usize| [pages.clone(), 0..heads, 0..rows, 0..n];
        let keys = self.keys.read(
            |pool| pool.clone().slice(in_row(pool.dims()[3])),
            |pool| pool.clone().slice(in_row(pool.dims()[3])),
        );
        let digest = self.digests.kind.fold(keys);
        let [_, _, rows, channels] = digest.dims();
        let place = [pages, 0..heads, 0..rows, 0..channels];
        let pool = &mut self.digests.rows;
        let digest = digest.cast(pool.dtype());
        pool.inplace(|pool| pool.slice_assign(place, digest));
    }

    /// Packs the digests of adjacent pages, where there are packed ones.
    pub(crate) fn pack_pages(&mut self, pages: Range<usize>) {
        let head_dim = self.head_dim();
        let Digests { kind, rows, int8 } = &mut self.digests;
        let Some(packed) = int8 else {
            return;
        };
        let digests = rows.clone().slice([pages.clone()]);
        let (words, scales) = quantized(*kind, digests, head_dim);
        let [heads, n, rows, row] = words.dims();
        let [_, _, groups] = scales.dims();
        debug_assert_eq!(n, pages.len());
        let place = [0..heads, pages.clone(), 0..rows, 0..row];
        packed.words.inplace(|pool| pool.slice_assign(place, words));
        let place = [0..heads, pages, 0..groups];
        (packed.scales).inplace(|pool| pool.slice_assign(place, scales));
    }
}

/// Words and scales of digests, as [`Int8Digests`](super::Int8Digests) has them.
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
    let scales = (largest * SCALE_OF_LARGEST).clamp_min(MIN_SCALE);

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
pub(super) fn packed(integers: Tensor<4, Int>) -> Tensor<4, Int> {
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

/// The integers of words `[.., n / 4]` in f32, `[.., n]`.
pub(crate) fn integers_of_words<const D: usize>(words: Tensor<D, Int>) -> Tensor<D> {
    let mut shape = words.dims();
    let n_words = shape.iter().product::<usize>();
    shape[D - 1] *= CHANNELS_PER_WORD;
    let words: Tensor<1, Int> = words.reshape([n_words]);
    let bytes = (0..CHANNELS_PER_WORD).map(|i| {
        let byte = words.clone().bitwise_right_shift_scalar(8 * i as i32);
        // From 0 to 255, then with its sign; some backends refuse to shift bits out on top.
        byte.bitwise_and_scalar(0xff).bitwise_xor_scalar(0x80) - 0x80
    });
    let integers: Tensor<2, Int> = Tensor::stack(bytes.collect(), 1);
    integers.reshape(shape).float().cast(DType::F32)
}
