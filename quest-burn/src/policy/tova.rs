use burn::{config::Config, tensor::Tensor};

use super::{
    PagePolicy, Pages, PolicyConfig, PolicyError,
    eviction::{Eviction, KeptBy},
};
use crate::cache::{LayerCache, Step};

/// Settings of a [`TovaPolicy`].
#[derive(Config, Debug, PartialEq, Eq)]
pub struct TovaConfig {
    /// Tokens that a query attends to, the newest included: one more than stay in between.
    #[config(default = 2048)]
    pub token_budget: usize,
    /// Leading layers that read every page.
    #[config(default = 2)]
    pub dense_layers: usize,
}

impl TovaConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// When the budget holds no token besides the newest.
    pub fn init(&self) -> Result<TovaPolicy, PolicyError> {
        if self.token_budget < 2 {
            return Err(PolicyError::TokenBudget {
                policy: "tova",
                least: 2,
                why: "the newest token and one that stays",
                found: self.token_budget,
            });
        }
        Ok(TovaPolicy {
            eviction: Eviction {
                budget: self.token_budget,
                recent: 0,
                accumulates: false,
                kept_by: KeptBy::Layer,
                dense_layers: self.dense_layers,
            },
        })
    }
}

/// Evicts, after each step, the token with the lowest attention of the newest query, averaged over
/// the heads of the layer ([TOVA](https://arxiv.org/abs/2401.06104)).
///
/// All heads of a layer keep the same tokens, at the positions that they had in the text. The newest
/// token has no privilege: it may be the one that is evicted. What happens to a prompt that does not
/// fit into the budget is as with [`H2oPolicy`](super::H2oPolicy).
#[derive(Clone, Debug)]
pub struct TovaPolicy {
    eviction: Eviction,
}

impl TryFrom<&PolicyConfig> for TovaPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        TovaConfig::new()
            .with_token_budget(config.quest.token_budget)
            .with_dense_layers(config.quest.dense_layers)
            .init()
    }
}

impl PagePolicy for TovaPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        self.eviction.select(query, cache, step, scale)
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        self.eviction.attention(query, cache, step, scale)
    }
}
