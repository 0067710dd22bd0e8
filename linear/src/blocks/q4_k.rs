use super::integers::{Integers, PART, bytes_at, half_at, six_bits};

/// 4 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
///
/// Two scales, 12 bytes of scales and minima, then 32 bytes for each 64 weights: the lower halves are
/// the first 32 of them.
#[allow(non_camel_case_types, reason = "ggml's name")]
#[derive(Clone, Copy)]
pub struct Q4_K;

/// Scales and minima of the eight parts of a block.
#[derive(Clone, Copy)]
pub struct ScalesAndMinima {
    scales: [f32; 8],
    minima: [f32; 8],
}

impl ScalesAndMinima {
    /// Those of a block that begins with them.
    #[inline(always)]
    pub fn of(block: &[u8], half: impl Fn(u16) -> f32) -> Self {
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
    pub fn scale(&self, part: usize) -> [f32; 2] {
        [self.scales[part]; 2]
    }

    #[inline(always)]
    pub fn minimum(&self, part: usize) -> f32 {
        self.minima[part]
    }
}

impl Integers for Q4_K {
    const NAME: &'static str = "Q4_K";
    const GGML_TYPE: u32 = 12;
    const BYTES: usize = 144;
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
        let mut integers = *bytes_at(block, 16 + part / 2 * PART);
        for integer in &mut integers {
            *integer = *integer >> (part % 2 * 4) & 0xf;
        }
        integers
    }
}
