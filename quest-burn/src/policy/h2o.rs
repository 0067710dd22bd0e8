use burn::{config::Config, tensor::Tensor};

use super::{
    PagePolicy, Pages, PolicyConfig, PolicyError,
    eviction::{Eviction, KeptBy},
};
use crate::{
    PageSharing,
    cache::{LayerCache, Step},
};

/// Settings of an [`H2oPolicy`].
#[derive(Config, Debug, PartialEq, Eq)]
pub struct H2oConfig {
    /// Tokens that a query attends to, the newest included.
    #[config(default = 2048)]
    pub token_budget: usize,
    /// How many of them are the most recent ones; the others are heavy hitters. Half the budget
    /// when not given.
    pub recent_tokens: Option<usize>,
    /// Which query heads keep the same tokens: those of a KV head, whose attention then counts
    /// together, or none. The authors' models have as many KV heads as query heads.
    #[config(default = "PageSharing::KvHead")]
    pub sharing: PageSharing,
    /// Leading layers that read every page.
    #[config(default = 2)]
    pub dense_layers: usize,
}

impl H2oConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// When the budget does not hold the most recent tokens and one more.
    pub fn init(&self) -> Result<H2oPolicy, PolicyError> {
        let recent = self.recent_tokens.unwrap_or(self.token_budget / 2).max(1);
        if self.token_budget <= recent {
            return Err(PolicyError::TokenBudget {
                policy: "h2o",
                least: recent + 1,
                why: "the most recent tokens and a heavy hitter",
                found: self.token_budget,
            });
        }
        Ok(H2oPolicy {
            eviction: Eviction {
                budget: self.token_budget,
                recent,
                accumulates: true,
                kept_by: match self.sharing {
                    PageSharing::QueryHead => KeptBy::QueryHead,
                    PageSharing::KvHead => KeptBy::KvHead,
                },
                dense_layers: self.dense_layers,
            },
        })
    }
}

/// Keeps, per head, the tokens that have received the most attention, summed over all decoded
/// queries, and the most recent ones; the others are evicted for good
/// ([H2O](https://arxiv.org/abs/2306.14048)).
///
/// The attention of prompt tokens is dense and not counted, as in Quest's experiments with long
/// prompts. If a prompt does not fit into the budget, the first decoded query ranks its tokens: the
/// attention that it would pay to all of them decides which stay, and it attends to those only. One
/// that is decoded later never reads anything else.
#[derive(Clone, Debug)]
pub struct H2oPolicy {
    eviction: Eviction,
}

impl TryFrom<&PolicyConfig> for H2oPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        H2oConfig::new()
            .with_token_budget(config.quest.token_budget)
            .with_sharing(config.quest.sharing)
            .with_dense_layers(config.quest.dense_layers)
            .init()
    }
}

impl PagePolicy for H2oPolicy {
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
