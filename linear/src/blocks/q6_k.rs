use super::integers::{Integers, PART, bytes_at, half_at};

/// 6 bits, 16 with a scale of 8 bits, 256 with the scale of those.
///
/// 128 bytes of lower four bits, 64 bytes of upper two, 16 scales with their signs, the scale of the
/// scales. Of each 128 weights, the first 64 are the lower halves of 64 bytes and the others the upper
/// ones; 32 bytes hold the upper bits, the lowest of them those of the first 32 weights.
#[allow(non_camel_case_types, reason = "ggml's name")]
#[derive(Clone, Copy)]
pub(crate) struct Q6_K;

impl Integers for Q6_K {
    const NAME: &'static str = "Q6_K";
    const GGML_TYPE: u32 = 14;
    const BYTES: usize = 210;
    const PARTS: usize = 8;
    const OFFSET: u8 = 32;

    type Scales = [f32; 16];

    #[inline(always)]
    fn scales(block: &[u8], half: impl Fn(u16) -> f32) -> [f32; 16] {
        let scale = half(half_at(block, 208));
        let mut scales = [scale; 16];
        for (scale, &own) in scales.iter_mut().zip(bytes_at::<16>(block, 192)) {
            *scale *= f32::from(own as i8);
        }
        scales
    }

    #[inline(always)]
    fn scale(scales: &[f32; 16], part: usize) -> [f32; 2] {
        [scales[2 * part], scales[2 * part + 1]]
    }

    #[inline(always)]
    fn integers(block: &[u8], part: usize) -> [u8; PART] {
        let (half, within) = (part / 4, part % 4);
        let mut integers = *bytes_at(block, half * 64 + within % 2 * PART);
        let high = bytes_at::<PART>(block, 128 + half * PART);
        for (integer, high) in integers.iter_mut().zip(high) {
            *integer = *integer >> (within / 2 * 4) & 0xf | (high >> (within * 2) & 3) << 4;
        }
        integers
    }
}
