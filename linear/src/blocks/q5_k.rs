use super::{
    Block, f16_at,
    nibbles::{PART, scales_and_minima},
};

/// 5 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
///
/// As [`Q4_K`](super::q4_k::Q4_K) with 32 bytes of fifth bits before the lower four: the `i`-th bits are
/// those of the `i`-th 32 weights.
#[allow(non_camel_case_types, reason = "ggml's name")]
pub struct Q5_K;

impl Block for Q5_K {
    const NAME: &'static str = "Q5_K";
    const GGML_TYPE: u32 = 13;
    const WEIGHTS: usize = 256;
    const BYTES: usize = 176;

    fn dequantize(block: &[u8], weights: &mut [f32]) {
        let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
        let parts = scales_and_minima(&block[4..]);
        let fifths = &block[16..][..PART];
        for (i, weights) in weights.chunks_exact_mut(PART).enumerate() {
            let [own_scale, own_minimum] = parts[i].map(f32::from);
            let (scale, minimum) = (scale * own_scale, minimum * own_minimum);
            let bytes = &block[16 + PART + i / 2 * PART..];
            for ((weight, byte), fifth) in weights.iter_mut().zip(bytes).zip(fifths) {
                let q = byte >> (i % 2 * 4) & 0xf | (fifth >> i & 1) << 4;
                *weight = f32::from(q) * scale - minimum;
            }
        }
    }
}
