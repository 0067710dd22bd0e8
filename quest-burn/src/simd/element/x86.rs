//! Widening by the instructions of x86-64.

use core::arch::x86_64::{
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps,
};

use burn::tensor::f16;
use bytemuck::pod_read_unaligned;
use macerator::Simd;

use super::super::lanes::{Floats, lanes};

/// By the instruction for it, where there is one.
#[inline(always)]
pub(super) fn widen_f16<S: Simd>(x: &[f16]) -> Option<[Floats<S>; 2]> {
    let halves: &[u8] = bytemuck::cast_slice(&x[..2 * lanes::<S>()]);
    let (low, high) = halves.split_at(halves.len() / 2);
    match lanes::<S>() {
        // SAFETY: of the levels that the vectors come from, only those with AVX-512F have 16
        // lanes, and code that is generic over a level is entered on a processor that has it.
        16 => unsafe {
            let low = _mm512_cvtph_ps(pod_read_unaligned(low));
            let high = _mm512_cvtph_ps(pod_read_unaligned(high));
            Some([
                pod_read_unaligned(bytemuck::bytes_of(&low)),
                pod_read_unaligned(bytemuck::bytes_of(&high)),
            ])
        },
        // SAFETY: as above; only the level with AVX2 has 8 lanes, and F16C belongs to it.
        8 => unsafe {
            let low = _mm256_cvtph_ps(pod_read_unaligned(low));
            let high = _mm256_cvtph_ps(pod_read_unaligned(high));
            Some([
                pod_read_unaligned(bytemuck::bytes_of(&low)),
                pod_read_unaligned(bytemuck::bytes_of(&high)),
            ])
        },
        _ => None,
    }
}

/// By the instructions for it, where there are some.
#[inline(always)]
pub(super) fn widen_i8<S: Simd>(x: &[i8]) -> Option<[Floats<S>; 2]> {
    let bytes: &[u8] = bytemuck::cast_slice(&x[..2 * lanes::<S>()]);
    match lanes::<S>() {
        // SAFETY: of the levels that the vectors come from, only those with AVX-512F have 16
        // lanes, and code that is generic over a level is entered on a processor that has it.
        16 => unsafe {
            let low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(pod_read_unaligned(&bytes[..16])));
            let high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(pod_read_unaligned(&bytes[16..])));
            Some([
                pod_read_unaligned(bytemuck::bytes_of(&low)),
                pod_read_unaligned(bytemuck::bytes_of(&high)),
            ])
        },
        // SAFETY: as above; only the level with AVX2 has 8 lanes.
        8 => unsafe {
            // The instruction takes the lower half of 16 bytes.
            let mut halves = [0; 32];
            halves[..8].copy_from_slice(&bytes[..8]);
            halves[16..24].copy_from_slice(&bytes[8..]);
            let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(pod_read_unaligned(&halves[..16])));
            let high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(pod_read_unaligned(&halves[16..])));
            Some([
                pod_read_unaligned(bytemuck::bytes_of(&low)),
                pod_read_unaligned(bytemuck::bytes_of(&high)),
            ])
        },
        _ => None,
    }
}
