use super::Mean;
use crate::digest::{NativeDigest, moments::for_each_channel};

impl NativeDigest for Mean {
    fn fold_page(keys: &[f32], head_dim: usize, digest: &mut [f32]) {
        for_each_channel(keys, head_dim, |channel, mean, _| digest[channel] = mean);
    }

    fn factors(q: f32) -> [f32; 2] {
        [q, 0.0]
    }

    fn score(product: f32, _squares: f32, _norm: f32, _scalar: f32, _deviations: f32) -> f32 {
        product
    }
}
