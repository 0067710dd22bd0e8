use super::integers::{Integers, PART, bytes_at, half_at, nibbles};

/// 4 bits, 32 with a scale and a minimum: the scale, the minimum, then 16 bytes.
#[derive(Clone, Copy)]
pub struct Q4_1;

impl Integers for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const GGML_TYPE: u32 = 3;
    const BYTES: usize = 20;
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
        nibbles(bytes_at(block, 4))
    }
}
