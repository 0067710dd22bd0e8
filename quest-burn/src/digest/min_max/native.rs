use super::MinMax;
use crate::digest::NativeDigest;

impl NativeDigest for MinMax {
    fn fold_page(keys: &[f32], head_dim: usize, digest: &mut [f32]) {
        let (low, high) = digest.split_at_mut(head_dim);
        low.copy_from_slice(&keys[..head_dim]);
        high.copy_from_slice(&keys[..head_dim]);
        for key in keys.chunks_exact(head_dim).skip(1) {
            for ((low, high), &key) in low.iter_mut().zip(&mut *high).zip(key) {
                // A NaN stays, whichever side it is on.
                if key < *low || key.is_nan() {
                    *low = key;
                }
                if key > *high || key.is_nan() {
                    *high = key;
                }
            }
        }
    }

    fn factors(q: f32) -> [f32; 2] {
        // NaN goes to both.
        let negative = if q > 0.0 { 0.0 } else { q };
        let positive = if q < 0.0 { 0.0 } else { q };
        [negative, positive]
    }

    fn score(product: f32, _squares: f32, _norm: f32, _scalar: f32, _deviations: f32) -> f32 {
        product
    }
}
