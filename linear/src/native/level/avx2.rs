use core::arch::x86_64::*;

use super::{BYTES, LANES, Level, Work};

/// AVX2 with FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// # Safety
///
/// The processor must have the level's instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<W: Work>(work: W) -> W::Output {
    work.run::<Avx2>()
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "SAFETY of all of them: the level is entered through `run` alone, whose caller has checked for \
              its instructions, and loads are of arrays that are as long"
)]
impl Level for Avx2 {
    type Floats = __m256;
    type Sums = __m256i;

    const MAX_ROWS: usize = 2;

    #[inline(always)]
    fn zeros() -> Self::Floats {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn floats(x: &[f32; LANES]) -> Self::Floats {
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn to_array(x: Self::Floats) -> [f32; LANES] {
        let mut floats = [0.0; LANES];
        unsafe { _mm256_storeu_ps(floats.as_mut_ptr(), x) };
        floats
    }

    #[inline(always)]
    fn halves(x: &[u16; LANES]) -> Self::Floats {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn half(x: u16) -> f32 {
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(x)))) }
    }

    #[inline(always)]
    fn multiply_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats {
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    fn sum(x: Self::Floats) -> f32 {
        unsafe {
            let halves = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(
        weights: &[u8; BYTES],
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums {
        unsafe {
            let weights = _mm256_loadu_si256(weights.as_ptr().cast());
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            let start = _mm256_loadu_si256(start.as_ptr().cast());
            let ones = _mm256_set1_epi16(1);
            let pairs = if WIDE {
                // Two products of 8 bits do not fit into 16: of each sum of four, the even pairs are
                // those of the even bytes and the odd pairs those of the odd ones.
                let low = _mm256_set1_epi16(0xff);
                let even = _mm256_madd_epi16(
                    _mm256_and_si256(weights, low),
                    _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)),
                );
                let odd =
                    _mm256_madd_epi16(_mm256_srli_epi16::<8>(weights), _mm256_srai_epi16::<8>(x));
                _mm256_add_epi32(even, odd)
            } else {
                _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), ones)
            };
            _mm256_add_epi32(start, pairs)
        }
    }

    #[inline(always)]
    fn scale_add(sums: Self::Sums, scale: [f32; 2], sum: Self::Floats) -> Self::Floats {
        unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scales(scale), sum) }
    }
}

/// A scale for each half of a vector.
#[inline(always)]
pub(super) fn scales([first, second]: [f32; 2]) -> __m256 {
    // SAFETY: as in the level, whose products alone call it.
    unsafe { _mm256_set_m128(_mm_set1_ps(second), _mm_set1_ps(first)) }
}
