#[cfg(feature = "cube")]
use cubecl::prelude::*;

use super::integers::{Integers, MAX_HEAD_WORDS, OnDevice, PART, bytes_at, half_at, six_bits};
#[cfg(feature = "cube")]
use crate::kernels::{half::half_of, linear::GroupLoad};

/// 4 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
///
/// Two scales, 12 bytes of scales and minima, then 32 bytes for each 64 weights: the lower halves are
/// the first 32 of them.
#[allow(non_camel_case_types, reason = "ggml's name")]
#[derive(Clone, Copy)]
pub(crate) struct Q4_K;

/// Scales and minima of the eight parts of a block.
#[derive(Clone, Copy)]
pub(crate) struct ScalesAndMinima {
    pub scales: [f32; 8],
    pub minima: [f32; 8],
}

impl ScalesAndMinima {
    /// Those of a block that begins with them.
    #[inline(always)]
    pub(crate) fn of(block: &[u8], half: impl Fn(u16) -> f32) -> Self {
        let [scales, minima] = six_bits(bytes_at(block, 4));
        let (scale, minimum) = (half(half_at(block, 0)), half(half_at(block, 2)));
        // Subtracting a number is adding its negative, to the last bit.
        let mut own = Self {
            scales: [scale; 8],
            minima: [-minimum; 8],
        };
        for (scale, integer) in own.scales.iter_mut().zip(scales) {
            *scale *= f32::from(integer);
        }
        for (minimum, integer) in own.minima.iter_mut().zip(minima) {
            *minimum *= f32::from(integer);
        }
        own
    }

    #[inline(always)]
    pub(crate) fn scale(&self, part: usize) -> [f32; 2] {
        [self.scales[part]; 2]
    }

    #[inline(always)]
    pub(crate) fn minimum(&self, part: usize) -> f32 {
        self.minima[part]
    }
}

impl Integers for Q4_K {
    const NAME: &'static str = "Q4_K";
    const GGML_TYPE: u32 = 12;
    const BYTES: usize = 144;
    const PARTS: usize = 8;
    const MINIMA: bool = true;

    const ON_DEVICE: Option<OnDevice> = Some(OnDevice::Heads { bits: 4, words: 4 });

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
        let mut integers = *bytes_at(block, 16 + part / 2 * PART);
        for integer in &mut integers {
            *integer = *integer >> (part % 2 * 4) & 0xf;
        }
        integers
    }

    fn head(block: &[u8]) -> [u32; MAX_HEAD_WORDS] {
        [0, 4, 8, 12].map(|at| u32::from_le_bytes(*bytes_at(block, at)))
    }
}

#[cfg(feature = "cube")]
#[cube]
impl GroupLoad for Q4_K {
    /// As [`six_bits`] has them.
    fn scale_and_minimum<S: Numeric, H: Size>(head: Vector<S, H>, group: usize) -> (f32, f32) {
        let halves = u32::reinterpret(head.extract(0usize));
        let scales = u32::reinterpret(head.extract(1usize));
        let minima = u32::reinterpret(head.extract(2usize));
        let last = u32::reinterpret(head.extract(3usize));
        let down = group as u32 % 4u32 * 8u32;
        let is_first = group % 8 < 4;
        let scale = scales >> down;
        let minimum = minima >> down;
        let last = last >> down;
        let last_scale = (last & 0xFu32) | ((scale >> 2u32) & 0x30u32);
        let last_minimum = ((last >> 4u32) & 0xFu32) | ((minimum >> 2u32) & 0x30u32);
        let scale = select(is_first, scale & 0x3Fu32, last_scale);
        let minimum = select(is_first, minimum & 0x3Fu32, last_minimum);
        (
            half_of(halves) * f32::cast_from(scale),
            -half_of(halves >> 16u32) * f32::cast_from(minimum),
        )
    }
}
