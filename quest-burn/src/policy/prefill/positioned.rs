use burn::tensor::{Int, Tensor};

use crate::{
    cache::{LayerCache, Step},
    ops,
    policy::{PagePolicy, Pages},
};

/// Prompt tokens of one sequence that are not in the order of their positions: each attends to the tokens whose
/// position is not behind its own. Decoded tokens read every page.
#[derive(Clone, Debug)]
pub struct PositionedPrefill {
    positions: Tensor<1, Int>,
}

impl PositionedPrefill {
    /// `positions` are those of all tokens in the cache, the new ones among them, in the order of their places:
    /// `[length]`, or more.
    pub fn new(positions: Tensor<1, Int>) -> Self {
        Self { positions }
    }
}

impl PagePolicy for PositionedPrefill {
    fn select(&self, _query: &Tensor<3>, _cache: &LayerCache, _step: &Step, _scale: f64) -> Pages {
        Pages::All
    }

    fn prefill_attention(
        &self,
        query: Tensor<4>,
        cache: &LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<4> {
        ops::positioned_prefill_attention(query, cache, &self.positions, step, scale)
    }
}
