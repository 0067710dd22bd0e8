use super::{Block, f16_at};

/// 8 bits, 32 with a scale: `scale`, then the weights with their signs.
pub struct Q8_0;

impl Block for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const GGML_TYPE: u32 = 8;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 34;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let scale = f16_at(block, 0);
        for (weight, &q) in weights.iter_mut().zip(&block[2..]) {
            *weight = f32::from(q as i8) * scale;
        }
    }
}
