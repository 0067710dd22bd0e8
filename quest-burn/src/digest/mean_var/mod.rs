//! Mean and standard deviation of each channel: a page is scored by what its keys are expected to
//! give, plus a multiple of how far they scatter in the query's direction, channels taken as independent.

#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "flex")]
mod native;

use burn::tensor::Tensor;

use crate::FixedPoint;

use super::{Digest, moments::moments, products, row};

pub(crate) struct MeanVar;

/// The second row is the square root of the variance: half precision holds deviations of keys that
/// its square would overflow.
impl Digest for MeanVar {
    const ROWS: usize = 2;
    const SQUARED: bool = true;
    const DEVIATIONS: Option<FixedPoint> = Some(FixedPoint::whole(2));

    fn fold(keys: Tensor<4>) -> Tensor<4> {
        let (mean, variance) = moments(&keys);
        Tensor::cat(vec![mean, variance.sqrt()], 2)
    }

    fn scores(query: Tensor<3>, digests: Tensor<4>, deviations: f32) -> Tensor<3> {
        let [_, _, head_dim] = query.dims();
        let mean = products(query.clone(), row(&digests, 0, head_dim));
        let second = row(&digests, 1, head_dim);
        let variance = products(query.clone() * query, second.clone() * second);
        mean + variance.sqrt() * deviations
    }
}
