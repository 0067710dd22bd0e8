use super::{Block, f16_at, nibbles::nibbles};

/// The values of four bits.
pub const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Indices of 16 values that lie closer around zero, 32 with a scale.
#[allow(non_camel_case_types, reason = "ggml's name")]
pub struct IQ4_NL;

impl Block for IQ4_NL {
    const NAME: &'static str = "IQ4_NL";
    const GGML_TYPE: u32 = 20;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let scale = f16_at(block, 0);
        for (weight, q) in weights.iter_mut().zip(nibbles(&block[2..])) {
            *weight = f32::from(VALUES[usize::from(q)]) * scale;
        }
    }
}
