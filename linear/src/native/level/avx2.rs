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
    type Bytes = __m256i;
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
    fn upper_halves(x: &[u16; LANES]) -> Self::Floats {
        unsafe {
            let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
        }
    }

    #[inline(always)]
    fn half(x: u16) -> f32 {
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(x)))) }
    }

    #[inline(always)]
    fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        unsafe { _mm256_mul_ps(a, b) }
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
    fn bytes(x: &[u8; BYTES]) -> Self::Bytes {
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn to_bytes(x: Self::Bytes) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), x) };
        bytes
    }

    #[inline(always)]
    fn nibbles(x: &[u8; BYTES / 2]) -> Self::Bytes {
        unsafe {
            let x = _mm_loadu_si128(x.as_ptr().cast());
            let halves = _mm256_set_m128i(_mm_srli_epi16::<4>(x), x);
            _mm256_and_si256(halves, _mm256_set1_epi8(0xf))
        }
    }

    #[inline(always)]
    fn pairs(x: &[u8; BYTES / 2]) -> Self::Bytes {
        unsafe {
            let x = _mm256_cvtepu8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
            let both = _mm256_or_si256(x, _mm256_slli_epi16::<4>(x));
            _mm256_and_si256(both, _mm256_set1_epi8(0xf))
        }
    }

    #[inline(always)]
    fn bits(x: Self::Bytes, from: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let down = _mm256_srl_epi16(x, _mm_cvtsi32_si128(from as i32));
            _mm256_and_si256(down, _mm256_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    fn joined(low: Self::Bytes, high: Self::Bytes) -> Self::Bytes {
        unsafe { _mm256_or_si256(low, _mm256_slli_epi16::<4>(high)) }
    }

    #[inline(always)]
    fn add_sixteens(x: Self::Bytes, set: u32) -> Self::Bytes {
        unsafe {
            // Each byte gets the byte that its bit is in, and keeps that bit.
            let place = _mm256_set_epi64x(
                0x0303_0303_0303_0303,
                0x0202_0202_0202_0202,
                0x0101_0101_0101_0101,
                0,
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let set = _mm256_shuffle_epi8(_mm256_set1_epi32(set as i32), place);
            let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(set, bit), bit);
            _mm256_or_si256(x, _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
        }
    }

    #[inline(always)]
    fn flip(x: Self::Bytes) -> Self::Bytes {
        unsafe { _mm256_xor_si256(x, _mm256_set1_epi8(-128)) }
    }

    #[inline(always)]
    fn values(x: Self::Bytes, values: &[u8; BYTES / 2]) -> Self::Bytes {
        unsafe {
            let values = _mm_loadu_si128(values.as_ptr().cast());
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), x)
        }
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(
        weights: Self::Bytes,
        x: &[i8; BYTES],
        start: &[i32; LANES],
    ) -> Self::Sums {
        unsafe {
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
