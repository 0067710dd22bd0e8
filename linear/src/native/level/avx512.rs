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
    fn half(x: u16) -> f32 {
        Avx2::half(x)
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
    fn dot<const WIDE: bool>(
        weights: &[u8; BYTES],
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums {
        // SAFETY: the level is entered through `run` alone, whose caller has checked for its
        // instructions, and loads are of arrays that are as long.
        unsafe {
            let weights = _mm256_loadu_si256(weights.as_ptr().cast());
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            _mm256_dpbusd_epi32(_mm256_loadu_si256(start.as_ptr().cast()), weights, x)
        }
    }

    #[inline(always)]
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats {
        Avx2::scale_add(sums, scale, sum)
    }
}
