use burn::tensor::Tensor;

use super::{PagePolicy, Pages};
use crate::cache::{LayerCache, Step};

/// Every page is read: exact attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct DensePolicy;

impl PagePolicy for DensePolicy {
    fn select(&self, _query: &Tensor<3>, _cache: &LayerCache, _step: &Step) -> Pages {
        Pages::All
    }
}
