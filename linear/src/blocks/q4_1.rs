#[cfg(feature = "cube")]
use cubecl::prelude::*;

use super::integers::{Integers, MAX_HEAD_WORDS, OnDevice, PART, bytes_at, half_at, nibbles};
#[cfg(feature = "cube")]
use crate::kernels::{half::half_of, linear::GroupLoad};

/// 4 bits, 32 with a scale and a minimum: the scale, the minimum, then 16 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Q4_1;

impl Integers for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const GGML_TYPE: u32 = 3;
    const BYTES: usize = 20;
    const MINIMA: bool = true;

    const ON_DEVICE: Option<OnDevice> = Some(OnDevice::Heads { bits: 4, words: 1 });

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

    fn head(block: &[u8]) -> [u32; MAX_HEAD_WORDS] {
        [u32::from_le_bytes(*bytes_at(block, 0)), 0, 0, 0]
    }
}

#[cfg(feature = "cube")]
#[cube]
impl GroupLoad for Q4_1 {
    fn scale_and_minimum<S: Numeric, H: Size>(head: Vector<S, H>, _group: usize) -> (f32, f32) {
        let head = u32::reinterpret(head.extract(0usize));
        (half_of(head), half_of(head >> 16u32))
    }
}
