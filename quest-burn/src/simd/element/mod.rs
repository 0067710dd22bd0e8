#[cfg(target_arch = "x86_64")]
mod x86;

use burn::tensor::{bf16, f16};
use macerator::{Scalar, Simd, Vector};

use super::lanes::{Floats, lanes, load, splat, width};

/// An element type of rows.
pub(crate) trait Widen: bytemuck::Pod + Scalar + Send + Sync {
    /// Whether rows have a scale, which their elements are multiplied by.
    const SCALED: bool = false;

    /// The first `2 * lanes` elements of a slice as f32, in the order of [`arrange`].
    fn widen<S: Simd>(x: &[Self]) -> [Floats<S>; 2];

    /// Whether [`widen`](Self::widen) gives the even elements, then the odd ones.
    fn interleaved<S: Simd>() -> bool;

    /// The element as f32.
    fn float(self) -> f32;
}

/// An element type of the cache's dtype.
pub(crate) trait Element: Widen + burn::backend::Element {
    /// The element nearest to a number.
    fn rounded(x: f32) -> Self;
}

impl Widen for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn widen<S: Simd>(x: &[Self]) -> [Floats<S>; 2] {
        #[cfg(target_arch = "x86_64")]
        if let Some(floats) = x86::widen_i8(x) {
            return floats;
        }
        let mut floats = [splat::<S>(0.0); 2];
        let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut floats);
        for (float, &integer) in numbers.iter_mut().zip(x) {
            *float = f32::from(integer);
        }
        floats
    }

    fn interleaved<S: Simd>() -> bool {
        false
    }

    #[inline(always)]
    fn float(self) -> f32 {
        f32::from(self)
    }
}

impl Widen for f32 {
    #[inline(always)]
    fn widen<S: Simd>(x: &[Self]) -> [Floats<S>; 2] {
        [load(x), load(&x[lanes::<S>()..])]
    }

    fn interleaved<S: Simd>() -> bool {
        false
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
}

impl Element for f32 {
    #[inline(always)]
    fn rounded(x: f32) -> Self {
        x
    }
}

impl Widen for bf16 {
    #[inline(always)]
    fn widen<S: Simd>(x: &[Self]) -> [Floats<S>; 2] {
        let pairs = load::<S, bf16>(x).reinterpret::<u32>();
        let odd = pairs & 0xffff_0000_u32.splat();
        [(pairs << 16).reinterpret(), odd.reinterpret()]
    }

    fn interleaved<S: Simd>() -> bool {
        true
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn rounded(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen<S: Simd>(x: &[Self]) -> [Floats<S>; 2] {
        #[cfg(target_arch = "x86_64")]
        if let Some(floats) = x86::widen_f16(x) {
            return floats;
        }
        let pairs = load::<S, f16>(x).reinterpret::<i32>();
        [widen_upper_f16(pairs << 16), widen_upper_f16(pairs)]
    }

    fn interleaved<S: Simd>() -> bool {
        !(cfg!(target_arch = "x86_64") && lanes::<S>() >= 8)
    }

    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

impl Element for f16 {
    #[inline(always)]
    fn rounded(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// The f16 in the upper half of each lane as f32.
#[inline(always)]
fn widen_upper_f16<S: Simd>(x: Vector<S, i32>) -> Floats<S> {
    // Sign, exponent and mantissa where f32 has them; the exponents differ in their bias.
    let shifted = (x >> 3) & (0x8fff_e000_u32 as i32).splat();
    let bias = splat::<S>(f32::from_bits((127 + 127 - 15) << 23));
    let finite = (shifted.reinterpret::<f32>() * bias).reinterpret::<u32>();
    let infinite_or_nan = finite | 0x7f80_0000_u32.splat();
    let without_sign = (shifted << 1).reinterpret::<u32>();
    let is_finite = without_sign.lt(0x1f00_0000_u32.splat());
    is_finite.select(finite, infinite_or_nan).reinterpret()
}

/// A row as f32; after its end come zeros.
#[inline(always)]
pub(super) fn widen_row<S: Simd, E: Widen>(row: &[E], out: &mut [Floats<S>]) {
    let width = width::<S>();
    let whole = row.len() / width;
    for pair in 0..whole {
        [out[2 * pair], out[2 * pair + 1]] = E::widen(&row[pair * width..]);
    }
    if row.len() > whole * width {
        [out[2 * whole], out[2 * whole + 1]] = widen_end(&row[whole * width..]);
    }
}

/// The end of a row, shorter than a width, followed by zeros.
#[inline(always)]
pub(super) fn widen_end<S: Simd, E: Widen>(end: &[E]) -> [Floats<S>; 2] {
    let mut padded = [<E as bytemuck::Zeroable>::zeroed(); MAX_WIDTH];
    padded[..end.len()].copy_from_slice(end);
    E::widen(&padded)
}

/// Elements that the widest vectors widen at once.
const MAX_WIDTH: usize = 32;

/// Vectors of a row of `n` elements, whole widths.
#[inline(always)]
pub(super) fn vectors_of<S: Simd>(n: usize) -> usize {
    2 * n.div_ceil(width::<S>())
}

/// Where in a row of f32 that is arranged like widened elements a channel lies.
#[inline(always)]
fn position<S: Simd, E: Widen>(channel: usize) -> usize {
    if !E::interleaved::<S>() {
        return channel;
    }
    let width = width::<S>();
    let (block, within) = (channel / width, channel % width);
    block * width + within % 2 * lanes::<S>() + within / 2
}

/// Rows of `n` numbers, each in the order of the widened elements that it meets.
#[inline(always)]
pub(super) fn arrange<S: Simd, E: Widen>(rows: &[f32], n: usize) -> Vec<Floats<S>> {
    let vectors = vectors_of::<S>(n);
    let mut arranged = vec![splat(0.0); rows.len() / n * vectors];
    for (row, arranged) in rows.chunks_exact(n).zip(arranged.chunks_exact_mut(vectors)) {
        let arranged: &mut [f32] = bytemuck::cast_slice_mut(arranged);
        for (channel, &x) in row.iter().enumerate() {
            arranged[position::<S, E>(channel)] = x;
        }
    }
    arranged
}

/// The numbers of an [arranged](arrange) row in their own order.
#[inline(always)]
pub(super) fn restore<S: Simd, E: Widen>(arranged: &[f32], row: &mut [f32]) {
    for (channel, x) in row.iter_mut().enumerate() {
        *x = arranged[position::<S, E>(channel)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[macerator::with_simd]
    fn widened<S: Simd, E: Widen>(row: &[E]) -> Vec<f32> {
        let mut out = vec![splat::<S>(f32::NAN); vectors_of::<S>(row.len())];
        widen_row::<S, E>(row, &mut out);
        let mut floats = vec![0.0; row.len()];
        restore::<S, E>(bytemuck::cast_slice(&out), &mut floats);
        floats
    }

    #[macerator::with_simd]
    fn widened_upper<S: Simd>(row: &[f16]) -> Vec<f32> {
        let lanes = lanes::<S>();
        let mut floats = Vec::new();
        for chunk in row.chunks_exact(lanes) {
            let mut padded = vec![0_i32; lanes];
            for (x, half) in padded.iter_mut().zip(chunk) {
                *x = i32::from(half.to_bits()) << 16 | 0x7fff;
            }
            let wide = widen_upper_f16::<S>(load(&padded));
            floats.extend_from_slice(bytemuck::cast_slice(bytemuck::bytes_of(&wide)));
        }
        floats
    }

    fn assert_same(found: &[f32], expected: impl Iterator<Item = f32>) {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()),
                "bits {i:#06x}: expected {expected}, found {found}"
            );
        }
    }

    #[test]
    fn every_f16_and_bf16_becomes_the_f32_that_it_stands_for() {
        let bits = || 0..=u16::MAX;
        let halves: Vec<f16> = bits().map(f16::from_bits).collect();
        let expected = || halves.iter().map(|x| x.to_f32());
        assert_same(&widened(&halves), expected());
        assert_same(&widened_upper(&halves), expected());
        let brains: Vec<bf16> = bits().map(bf16::from_bits).collect();
        assert_same(&widened(&brains), brains.iter().map(|x| x.to_f32()));
    }

    #[test]
    fn every_integer_of_8_bits_becomes_its_float() {
        let integers: Vec<i8> = (i8::MIN..=i8::MAX).collect();
        assert_same(&widened(&integers), integers.iter().map(|&x| f32::from(x)));
    }

    #[test]
    fn a_row_of_any_length_is_widened_to_its_end() {
        for n in 1..100 {
            let row: Vec<bf16> = (0..n).map(|i| bf16::from_f32(i as f32)).collect();
            assert_same(&widened(&row), (0..n).map(|i| i as f32));
        }
    }
}
