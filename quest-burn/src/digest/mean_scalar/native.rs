use super::MeanScalar;
use crate::digest::{NativeDigest, moments::for_each_channel};

impl NativeDigest for MeanScalar {
    fn fold_page(keys: &[f32], head_dim: usize, digest: &mut [f32]) {
        let (means, deviation) = digest.split_at_mut(head_dim);
        let mut variances = 0.0;
        for_each_channel(keys, head_dim, |channel, mean, variance| {
            means[channel] = mean;
            variances += variance;
        });
        deviation.fill((variances / head_dim as f32).sqrt());
    }

    fn factors(q: f32) -> [f32; 2] {
        [q, 0.0]
    }

    fn score(product: f32, _squares: f32, norm: f32, scalar: f32, deviations: f32) -> f32 {
        (norm * deviations).mul_add(scalar, product)
    }
}
