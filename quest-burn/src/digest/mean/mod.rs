//! Mean of each channel.

#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "flex")]
mod native;

use burn::tensor::Tensor;

use super::{Digest, moments::moments, products};

pub(crate) struct Mean;

impl Digest for Mean {
    const ROWS: usize = 1;

    fn fold(keys: Tensor<4>) -> Tensor<4> {
        let (mean, _) = moments(&keys);
        mean
    }

    fn scores(query: Tensor<3>, digests: Tensor<4>, _deviations: f32) -> Tensor<3> {
        products(query, digests)
    }
}
