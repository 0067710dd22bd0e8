//! Mean of each channel, and one standard deviation for all of them ([UNIQUE](https://arxiv.org/abs/2605.27740)):
//! the square root of the mean variance of the channels.

#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "flex")]
mod native;

use burn::tensor::Tensor;

use crate::FixedPoint;

use super::{Digest, SCALAR_CHANNELS, moments::moments, products, row};

pub(crate) struct MeanScalar;

impl Digest for MeanScalar {
    const ROWS: usize = 1;
    const SCALAR: bool = true;
    const DEVIATIONS: Option<FixedPoint> = Some(FixedPoint::whole(2));

    fn fold(keys: Tensor<4>) -> Tensor<4> {
        let [n_pages, heads, _, _] = keys.dims();
        let (mean, variance) = moments(&keys);
        let deviation = variance.mean_dim(3).sqrt();
        let deviation = deviation.expand([n_pages, heads, 1, SCALAR_CHANNELS]);
        Tensor::cat(vec![mean, deviation], 3)
    }

    fn scores(query: Tensor<3>, digests: Tensor<4>, deviations: f32) -> Tensor<3> {
        let [_, _, head_dim] = query.dims();
        let mean = products(query.clone(), row(&digests, 0, head_dim));
        let norm = (query.clone() * query).sum_dim(2).sqrt() * deviations;
        let deviation = digests.slice_dim(3, head_dim..head_dim + 1);
        mean + products(norm, deviation)
    }
}
