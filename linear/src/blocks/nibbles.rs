//! What formats of 4 and 5 bits share.

/// The weights of 16 bytes: those of the lower halves, then those of the upper ones.
pub fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let lower = bytes.iter().map(|byte| byte & 0xf);
    lower.chain(bytes.iter().map(|byte| byte >> 4))
}

/// The fifth bits of 32 weights, where they count.
pub fn fifth_bits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (0..32).map(move |i| (word >> i & 1) as u8 * 16)
}

/// Weights that share a scale in formats of 256.
pub const PART: usize = 32;

/// The scale and the minimum of each 32 of 256 weights, 6 bits each in 12 bytes.
///
/// Of the first four they are the lower bits of bytes 0 to 3 and 4 to 7. Of the last four the lower four
/// bits are in bytes 8 to 11, and the upper two are the highest bits of the bytes of the first four.
pub fn scales_and_minima(bytes: &[u8]) -> [[u8; 2]; 8] {
    core::array::from_fn(|i| {
        if i < 4 {
            [bytes[i] & 63, bytes[i + 4] & 63]
        } else {
            let low = bytes[i + 4];
            [
                low & 0xf | bytes[i - 4] >> 6 << 4,
                low >> 4 | bytes[i] >> 6 << 4,
            ]
        }
    })
}
