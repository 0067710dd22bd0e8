use super::{
    Block, f16_at,
    nibbles::{fifth_bits, nibbles},
};

/// 5 bits, 32 with a scale: `(q - 16) * scale`.
pub struct Q5_0;

impl Block for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const GGML_TYPE: u32 = 6;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 22;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let scale = f16_at(block, 0);
        let values = nibbles(&block[6..]).zip(fifth_bits(&block[2..]));
        for (weight, (low, high)) in weights.iter_mut().zip(values) {
            *weight = (f32::from(low | high) - 16.0) * scale;
        }
    }
}
