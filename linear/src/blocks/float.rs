use super::{Block, f16_at};

/// 32-bit floats.
pub struct F32;

impl Block for F32 {
    const NAME: &'static str = "F32";
    const GGML_TYPE: u32 = 0;
    const WEIGHTS: usize = 1;
    const BYTES: usize = 4;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        weights[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    }
}

/// 16-bit floats.
pub struct F16;

impl Block for F16 {
    const NAME: &'static str = "F16";
    const GGML_TYPE: u32 = 1;
    const WEIGHTS: usize = 1;
    const BYTES: usize = 2;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        weights[0] = f16_at(block, 0);
    }
}

/// The upper halves of 32-bit floats.
pub struct BF16;

impl Block for BF16 {
    const NAME: &'static str = "BF16";
    const GGML_TYPE: u32 = 30;
    const WEIGHTS: usize = 1;
    const BYTES: usize = 2;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        weights[0] = half::bf16::from_le_bytes([block[0], block[1]]).to_f32();
    }
}
