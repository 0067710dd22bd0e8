/// Weights of a part.
pub(crate) const PART: usize = 32;

/// A format whose weights are integers with scales: `(integer - OFFSET) * scale`, and a minimum added
/// where there is one.
///
/// A block is parts of 32 weights. What is generic over a format is [widening](widen) and, in native code,
/// dot products. Functions are in plain Rust, in loops that the compiler turns into vector instructions:
/// maps over arrays it does not.
pub(crate) trait Integers: Copy + Send + Sync {
    /// ggml's name of the format.
    const NAME: &'static str;
    /// ggml's number of the format.
    const GGML_TYPE: u32;
    /// Bytes of a block.
    const BYTES: usize;
    /// Parts of a block.
    const PARTS: usize = 1;
    /// What is subtracted from every integer.
    const OFFSET: u8 = 0;
    /// Whether integers have more than 7 bits.
    #[cfg_attr(not(feature = "native"), allow(dead_code))]
    const WIDE: bool = false;
    /// Whether parts have a minimum.
    const MINIMA: bool = false;
    /// How a GPU keeps the format, where its kernels read it; elsewhere weights are widened.
    const ON_DEVICE: Option<OnDevice> = None;

    /// What the scales of all parts are made of.
    type Scales: Copy;

    /// Reads it; `half` widens the bits of a 16-bit float.
    fn scales(block: &[u8], half: impl Fn(u16) -> f32) -> Self::Scales;
    /// The scales of a part's first and last 16 weights.
    fn scale(scales: &Self::Scales, part: usize) -> [f32; 2];
    /// What is added to a part's weights.
    #[inline(always)]
    fn minimum(_scales: &Self::Scales, _part: usize) -> f32 {
        0.0
    }
    /// A part's integers.
    fn integers(block: &[u8], part: usize) -> [u8; PART];
    /// What a block has besides its integers, in as many words as [`OnDevice::Heads`] says.
    #[cfg_attr(not(feature = "cube"), allow(dead_code))]
    fn head(_block: &[u8]) -> [u32; MAX_HEAD_WORDS] {
        [0; MAX_HEAD_WORDS]
    }
}

/// Most words of a head.
pub(super) const MAX_HEAD_WORDS: usize = 4;

/// How a GPU keeps a format. Integers are laid in words of 4 or 8 bits, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "cube"), allow(dead_code))]
pub(crate) enum OnDevice {
    /// With a scale for each part, in 16 bits where the device computes in them; the zero point is the
    /// middle of the range.
    Scales { bits: usize },
    /// With a head of words for each block, which the format's kernel code reads. Integers are without
    /// an offset.
    Heads { bits: usize, words: usize },
}

/// Widens a block.
#[inline(always)]
pub(super) fn widen<F: Integers>(block: &[u8], weights: &mut [f32], half: impl Fn(u16) -> f32) {
    let scales = F::scales(block, half);
    for (part, weights) in weights.chunks_exact_mut(PART).enumerate() {
        let integers = F::integers(block, part);
        let scale = F::scale(&scales, part);
        for (i, (weight, integer)) in weights.iter_mut().zip(integers).enumerate() {
            let value = f32::from(i16::from(integer) - i16::from(F::OFFSET));
            *weight = value * scale[i / (PART / 2)];
            if F::MINIMA {
                *weight += F::minimum(&scales, part);
            }
        }
    }
}

/// The bits of the 16-bit float at a place in a block.
#[inline(always)]
pub(crate) fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// As many bytes of a block from a place on.
#[inline(always)]
pub(crate) fn bytes_at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..]
        .first_chunk()
        .expect("a block has as many bytes as its format says")
}

/// The integers of 16 bytes: the lower halves, then the upper ones.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8; 16]) -> [u8; PART] {
    let mut integers = [0; PART];
    for (i, byte) in bytes.iter().enumerate() {
        integers[i] = byte & 0xf;
        integers[i + 16] = byte >> 4;
    }
    integers
}

/// The same with a fifth bit each.
#[inline(always)]
pub(super) fn nibbles_and_fifth(bytes: &[u8; 16], fifths: &[u8; 4]) -> [u8; PART] {
    let mut integers = nibbles(bytes);
    for (eight, &fifths) in integers.chunks_exact_mut(8).zip(fifths) {
        // Each byte gets one of the bits, then 16 where that is set.
        let bits = (u64::from(fifths) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let sixteens = ((bits + 0x7f7f_7f7f_7f7f_7f7f) & 0x8080_8080_8080_8080) >> 3;
        for (integer, sixteen) in eight.iter_mut().zip(sixteens.to_le_bytes()) {
            *integer |= sixteen;
        }
    }
    integers
}

/// The scale and the minimum of eight parts, 6 bits each in 12 bytes.
///
/// Of the first four they are the lower bits of bytes 0 to 3 and 4 to 7. Of the last four the lower four
/// bits are in bytes 8 to 11, and the upper two are the highest bits of the bytes of the first four.
#[inline(always)]
pub(super) fn six_bits(bytes: &[u8; 12]) -> [[u8; 8]; 2] {
    let word = |at: usize| u32::from_le_bytes(*bytes_at(bytes, at));
    let (scales, minima, last) = (word(0), word(4), word(8));
    let low = |word: u32| word & 0x3f3f_3f3f;
    let high = |word: u32| word >> 2 & 0x3030_3030;
    let last_scales = last & 0x0f0f_0f0f | high(scales);
    let last_minima = last >> 4 & 0x0f0f_0f0f | high(minima);
    let eight = |first: u32, last: u32| (u64::from(last) << 32 | u64::from(first)).to_le_bytes();
    [
        eight(low(scales), last_scales),
        eight(low(minima), last_minima),
    ]
}
