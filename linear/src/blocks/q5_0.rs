use super::integers::{Integers, PART, bytes_at, half_at, nibbles_and_fifth};

/// 5 bits, 32 with a scale: the scale, 4 bytes of fifth bits, then 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Q5_0;

impl Integers for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const GGML_TYPE: u32 = 6;
    const BYTES: usize = 22;
    const OFFSET: u8 = 16;

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
        nibbles_and_fifth(bytes_at(block, 6), bytes_at(block, 2))
    }
}
