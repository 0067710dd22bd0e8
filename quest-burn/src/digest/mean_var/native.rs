use super::MeanVar;
use crate::digest::{NativeDigest, moments::for_each_channel};

impl NativeDigest for MeanVar {
    fn fold_page(keys: &[f32], head_dim: usize, digest: &mut [f32]) {
        let (means, deviations) = digest.split_at_mut(head_dim);
        for_each_channel(keys, head_dim, |channel, mean, variance| {
            means[channel] = mean;
            deviations[channel] = variance.sqrt();
        });
    }

    fn factors(q: f32) -> [f32; 2] {
        [q, q * q]
    }

    fn score(product: f32, squares: f32, _norm: f32, _scalar: f32, deviations: f32) -> f32 {
        product + deviations * squares.sqrt()
    }
}
