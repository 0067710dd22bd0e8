use super::integers::{Integers, PART, bytes_at, half_at, nibbles_and_fifth};

/// 5 bits, 32 with a scale and a minimum: the scale, the minimum, 4 bytes of fifth bits, then 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Q5_1;

impl Integers for Q5_1 {
    const NAME: &'static str = "Q5_1";
    const GGML_TYPE: u32 = 7;
    const BYTES: usize = 24;
    const MINIMA: bool = true;

    type Scales = [f32; 2];

    #[inline(always)]
    fn scales(block: &[u8], half: impl Fn(u16) -> f32) -> [f32; 2] {
        [half(half_at(block, 0)), half(half_at(block, 2))]
    }

    #[inline(always)]
    fn scale(scales: &[f32; 2], _part: usize) -> [f32; 2] {
        [scales[0]; 2]
    }

    #[inline(always)]
    fn minimum(scales: &[f32; 2], _part: usize) -> f32 {
        scales[1]
    }

    #[inline(always)]
    fn integers(block: &[u8], _part: usize) -> [u8; PART] {
        nibbles_and_fifth(bytes_at(block, 8), bytes_at(block, 4))
    }
}
