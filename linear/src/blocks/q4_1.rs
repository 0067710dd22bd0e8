use super::{Block, f16_at, nibbles::nibbles};

/// 4 bits, 32 with a scale and a minimum: `q * scale + minimum`.
pub struct Q4_1;

impl Block for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const GGML_TYPE: u32 = 3;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 20;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
        for (weight, q) in weights.iter_mut().zip(nibbles(&block[4..])) {
            *weight = f32::from(q) * scale + minimum;
        }
    }
}
