use burn::tensor::Tensor;
use quest_burn::{
    cache::{LayerCache, Step},
    ops::{self, Pages},
    policy::PagePolicy,
};

/// A policy in one layer; every other layer reads all pages.
///
/// It shows how much of the cache a layer needs, with nothing else in the way. The policy inside
/// must not take that layer for one of its dense layers.
#[derive(Debug)]
pub struct OnlyLayer {
    layer: usize,
    policy: Box<dyn PagePolicy>,
}

impl OnlyLayer {
    /// `policy` in the layer of that index, counted from 0.
    pub fn new(layer: usize, policy: Box<dyn PagePolicy>) -> Self {
        Self { layer, policy }
    }
}

impl PagePolicy for OnlyLayer {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        if cache.index() == self.layer {
            self.policy.select(query, cache, step, scale)
        } else {
            Pages::All
        }
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        if cache.index() == self.layer {
            self.policy.attention(query, cache, step, scale)
        } else {
            ops::paged_attention(query, cache, &Pages::All, step, scale)
        }
    }
}
