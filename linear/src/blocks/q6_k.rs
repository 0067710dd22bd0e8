use super::{Block, f16_at};

/// 6 bits, 16 with a scale of 8 bits, 256 with the scale of those: `(q - 32) * scale`.
///
/// 128 bytes of lower four bits, 64 bytes of upper two, 16 scales with their signs, the scale of the
/// scales. Of each 128 weights, the first 64 are the lower halves of 64 bytes and the others the upper
/// ones; 32 bytes hold the upper bits, the lowest of them those of the first 32 weights.
#[allow(non_camel_case_types, reason = "ggml's name")]
pub struct Q6_K;

impl Block for Q6_K {
    const NAME: &'static str = "Q6_K";
    const GGML_TYPE: u32 = 14;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 210;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let (low, block) = block.split_at(128);
        let (high, block) = block.split_at(64);
        let (scales, block) = block.split_at(16);
        let scale = f16_at(block, 0);
        for (i, weights) in weights.chunks_exact_mut(16).enumerate() {
            let scale = scale * f32::from(scales[i] as i8);
            let (half, within) = (i / 8, i % 8 * 16);
            let low = &low[half * 64 + within % 64..];
            let high = &high[half * 32 + within % 32..];
            for ((weight, low), high) in weights.iter_mut().zip(low).zip(high) {
                let low = low >> (within / 64 * 4) & 0xf;
                let high = high >> (within / 32 * 2) & 3;
                *weight = (f32::from(low | high << 4) - 32.0) * scale;
            }
        }
    }
}
