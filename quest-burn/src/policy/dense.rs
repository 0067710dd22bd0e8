use burn::tensor::Tensor;

use super::{PagePolicy, Pages, PolicyConfig, PolicyError};
use crate::cache::{LayerCache, Step};

/// Every page is read: exact attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct DensePolicy;

impl TryFrom<&PolicyConfig> for DensePolicy {
    type Error = PolicyError;

    fn try_from(_config: &PolicyConfig) -> Result<Self, PolicyError> {
        Ok(Self)
    }
}

impl PagePolicy for DensePolicy {
    fn is_capturable(&self) -> bool {
        true
    }

    fn tokens_read(&self, _layer: usize, length: usize, _page_size: usize) -> Option<usize> {
        Some(length)
    }

    fn select(&self, _query: &Tensor<3>, _cache: &LayerCache, _step: &Step, _scale: f64) -> Pages {
        Pages::All
    }
}
