use super::integers::{Integers, PART, bytes_at, half_at, nibbles};

/// Indices of 16 values that lie closer around zero, 32 with a scale: the scale, then 16 bytes.
#[allow(non_camel_case_types, reason = "ggml's name")]
#[derive(Clone, Copy)]
pub(crate) struct IQ4_NL;

/// The values, 128 added to each.
pub(crate) const VALUES: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];

impl Integers for IQ4_NL {
    const NAME: &'static str = "IQ4_NL";
    const GGML_TYPE: u32 = 20;
    const BYTES: usize = 18;
    const OFFSET: u8 = 128;
    const WIDE: bool = true;

    type Scales = f32;

    #[inline(always)]
    fn scales(block: &[u8], half: impl Fn(u16) -> f32) -> f32 {
        half(half_at(block, 0))
    }

    #[inline(always)]
    fn scale(scales: &f32, _part: usize) -> [f32; 2] {
        [*scales; 2]
    }

    #[inline(always)]
    fn integers(block: &[u8], _part: usize) -> [u8; PART] {
        let mut integers = nibbles(bytes_at(block, 2));
        for integer in &mut integers {
            *integer = VALUES[usize::from(*integer)];
        }
        integers
    }
}
