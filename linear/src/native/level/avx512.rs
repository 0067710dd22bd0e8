use core::arch::x86_64::*;

use super::{
    BYTES, LANES, Level, Work,
    avx2::{self, Avx2},
};

/// AVX-512 with VNNI: the vectors of AVX2, with one instruction for dot products of bytes and twice as
/// many registers.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

pub(super) fn is_available() -> bool {
    avx2::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// # Safety
///
/// The processor must have the level's instructions.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run<W: Work>(work: W) -> W::Output {
    work.run::<Avx512>()
}

impl Level for Avx512 {
    type Floats = __m256;
    type Bytes = __m256i;
    type Sums = __m256i;

    const MAX_ROWS: usize = 4;

    #[inline(always)]
    fn zeros() -> Self::Floats {
        Avx2::zeros()
    }

    #[inline(always)]
    fn floats(x: &[f32; LANES]) -> Self::Floats {
        Avx2::floats(x)
    }

    #[inline(always)]
    fn to_array(x: Self::Floats) -> [f32; LANES] {
        Avx2::to_array(x)
    }

    #[inline(always)]
    fn halves(x: &[u16; LANES]) -> Self::Floats {
        Avx2::halves(x)
    }

    #[inline(always)]
    fn upper_halves(x: &[u16; LANES]) -> Self::Floats {
        Avx2::upper_halves(x)
    }

    #[inline(always)]
    fn half(x: u16) -> f32 {
        Avx2::half(x)
    }

    #[inline(always)]
    fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        Avx2::multiply(a, b)
    }

    #[inline(always)]
    fn multiply_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats {
        Avx2::multiply_add(a, b, sum)
    }

    #[inline(always)]
    fn sum(x: Self::Floats) -> f32 {
        Avx2::sum(x)
    }

    #[inline(always)]
    fn bytes(x: &[u8; BYTES]) -> Self::Bytes {
        Avx2::bytes(x)
    }

    #[inline(always)]
    fn to_bytes(x: Self::Bytes) -> [u8; BYTES] {
        Avx2::to_bytes(x)
    }

    #[inline(always)]
    fn nibbles(x: &[u8; BYTES / 2]) -> Self::Bytes {
        Avx2::nibbles(x)
    }

    #[inline(always)]
    fn pairs(x: &[u8; BYTES / 2]) -> Self::Bytes {
        Avx2::pairs(x)
    }

    #[inline(always)]
    fn bits(x: Self::Bytes, from: u32, mask: u8) -> Self::Bytes {
        Avx2::bits(x, from, mask)
    }

    #[inline(always)]
    fn joined(low: Self::Bytes, high: Self::Bytes) -> Self::Bytes {
        Avx2::joined(low, high)
    }

    #[inline(always)]
    fn add_sixteens(x: Self::Bytes, set: u32) -> Self::Bytes {
        // SAFETY: the level is entered through `run` alone, whose caller has checked for its instructions.
        unsafe { _mm256_mask_add_epi8(x, set, x, _mm256_set1_epi8(16)) }
    }

    #[inline(always)]
    fn flip(x: Self::Bytes) -> Self::Bytes {
        Avx2::flip(x)
    }

    #[inline(always)]
    fn values(x: Self::Bytes, values: &[u8; BYTES / 2]) -> Self::Bytes {
        Avx2::values(x, values)
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(
        weights: Self::Bytes,
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums {
        // SAFETY: the level is entered through `run` alone, whose caller has checked for its
        // instructions, and loads are of arrays that are as long.
        unsafe {
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            _mm256_dpbusd_epi32(_mm256_loadu_si256(start.as_ptr().cast()), weights, x)
        }
    }

    #[inline(always)]
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats {
        Avx2::scale_add(sums, scale, sum)
    }
}
