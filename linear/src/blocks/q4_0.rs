use super::integers::{Integers, OnDevice, PART, bytes_at, half_at, nibbles};

/// 4 bits, 32 with a scale: the scale, then 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Q4_0;

impl Integers for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const GGML_TYPE: u32 = 2;
    const BYTES: usize = 18;
    const OFFSET: u8 = 8;

    const ON_DEVICE: Option<OnDevice> = Some(OnDevice::Scales { bits: 4 });

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
        nibbles(bytes_at(block, 2))
    }
}
