use super::{Block, f16_at, nibbles::nibbles};

/// 4 bits, 32 with a scale: `(q - 8) * scale`.
pub struct Q4_0;

impl Block for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const GGML_TYPE: u32 = 2;
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let scale = f16_at(block, 0);
        for (weight, q) in weights.iter_mut().zip(nibbles(&block[2..])) {
            *weight = (f32::from(q) - 8.0) * scale;
        }
    }
}
