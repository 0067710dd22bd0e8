use super::{
    Block, f16_at,
    nibbles::{fifth_bits, nibbles},
};

/// 5 bits, 32 with a scale and a minimum: `q * scale + minimum`.
pub struct Q5_1;

impl Block for Q5_1 {
    const NAME: &'static str = "Q5_1";
    const GGML_TYPE: u32 = 7;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 24;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
        let values = nibbles(&block[8..]).zip(fifth_bits(&block[4..]));
        for (weight, (low, high)) in weights.iter_mut().zip(values) {
            *weight = f32::from(low | high) * scale + minimum;
        }
    }
}
