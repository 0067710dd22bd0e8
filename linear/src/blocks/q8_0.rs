use super::integers::{Integers, OnDevice, PART, bytes_at, half_at};

/// 8 bits, 32 with a scale: the scale, then the weights with their signs.
#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Integers for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const GGML_TYPE: u32 = 8;
    const BYTES: usize = 34;
    const OFFSET: u8 = 128;
    const WIDE: bool = true;

    const ON_DEVICE: Option<OnDevice> = Some(OnDevice::Scales { bits: 8 });

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
        let mut integers = *bytes_at(block, 2);
        for integer in &mut integers {
            *integer ^= 0x80;
        }
        integers
    }
}
