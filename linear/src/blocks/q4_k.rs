use super::{
    Block, f16_at,
    nibbles::{PART, scales_and_minima},
};

/// 4 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
///
/// Two scales, 12 bytes of scales and minima, then 32 bytes for each 64 weights: the lower halves are
/// the first 32 of them.
#[allow(non_camel_case_types, reason = "ggml's name")]
pub struct Q4_K;

impl Block for Q4_K {
    const NAME: &'static str = "Q4_K";
    const GGML_TYPE: u32 = 12;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 144;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
        let parts = scales_and_minima(&block[4..]);
        for (i, weights) in weights.chunks_exact_mut(PART).enumerate() {
            let [own_scale, own_minimum] = parts[i].map(f32::from);
            let (scale, minimum) = (scale * own_scale, minimum * own_minimum);
            let bytes = &block[16 + i / 2 * PART..];
            for (weight, byte) in weights.iter_mut().zip(bytes) {
                let q = byte >> (i % 2 * 4) & 0xf;
                *weight = f32::from(q) * scale - minimum;
            }
        }
    }
}
