//! 16-bit floats on devices that do not compute in them.

use cubecl::prelude::*;

/// Exponents of f32 are counted from 127, those of 16-bit floats from 15.
const EXPONENTS: u32 = (127 - 15) << 23;
/// The bits of the smallest normal 16-bit float, 2^-14.
const MIN_NORMAL: u32 = EXPONENTS + (1 << 23);
const MIN_NORMAL_VALUE: f32 = 1.0 / 16_384.0;

/// The number whose bits are the lower half of a word; infinities and NaNs are not looked for.
///
/// Subnormal numbers pass by subnormal ones of f32, which not every device has.
#[cube]
pub(crate) fn half_of(word: u32) -> f32 {
    let bits = (word & 0x7FFFu32) << 13u32;
    let sign = (word & 0x8000u32) << 16u32;
    let is_normal = (word & 0x7C00u32) != 0u32;
    let normal = f32::reinterpret(bits + EXPONENTS);
    let subnormal = f32::reinterpret(bits + MIN_NORMAL) - MIN_NORMAL_VALUE;
    let value = select(is_normal, normal, subnormal);
    f32::reinterpret(u32::reinterpret(value) | sign)
}
