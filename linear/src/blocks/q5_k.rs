use super::{
    integers::{Integers, PART, bytes_at},
    q4_k::ScalesAndMinima,
};

/// 5 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
///
/// As [`Q4_K`](super::q4_k::Q4_K) with 32 bytes of fifth bits before the lower four: the `i`-th bits are
/// those of the `i`-th 32 weights.
#[allow(non_camel_case_types, reason = "ggml's name")]
#[derive(Clone, Copy)]
pub(crate) struct Q5_K;

impl Integers for Q5_K {
    const NAME: &'static str = "Q5_K";
    const GGML_TYPE: u32 = 13;
    const BYTES: usize = 176;
    const PARTS: usize = 8;
    const MINIMA: bool = true;

    type Scales = ScalesAndMinima;

    #[inline(always)]
    fn scales(block: &[u8], half: impl Fn(u16) -> f32) -> ScalesAndMinima {
        ScalesAndMinima::of(block, half)
    }

    #[inline(always)]
    fn scale(scales: &ScalesAndMinima, part: usize) -> [f32; 2] {
        scales.scale(part)
    }

    #[inline(always)]
    fn minimum(scales: &ScalesAndMinima, part: usize) -> f32 {
        scales.minimum(part)
    }

    #[inline(always)]
    fn integers(block: &[u8], part: usize) -> [u8; PART] {
        let fifths = bytes_at::<PART>(block, 16);
        let mut integers = *bytes_at(block, 16 + PART + part / 2 * PART);
        for (integer, fifth) in integers.iter_mut().zip(fifths) {
            *integer = *integer >> (part % 2 * 4) & 0xf | (fifth >> part & 1) << 4;
        }
        integers
    }
}
