use burn::{
    config::Config,
    tensor::{Int, Tensor, TensorData},
};

use super::{KeyShift, PagePolicy, Pages, PolicyConfig, PolicyError, TokenLists};
use crate::{
    attention::RopeConfig,
    cache::{LayerCache, Step},
};

/// How the tokens of a [`StreamingPolicy`] are numbered.
#[derive(Config, Debug, PartialEq)]
pub enum WindowPositions {
    /// By their place in the window, without the gap behind the first tokens, as in the released
    /// code. The cache holds keys after RoPE, so the first keys are rotated on by the width of the
    /// gap at every step; what lies behind the gap is as far from the query as before.
    InWindow(RopeConfig),
    /// By their place in the text: for models without RoPE, or to measure what the numbering does.
    InText,
}

/// Settings of a [`StreamingPolicy`].
#[derive(Config, Debug, PartialEq)]
pub struct StreamingConfig {
    /// How tokens are numbered.
    pub positions: WindowPositions,
    /// Tokens that a query attends to, the newest included.
    #[config(default = 2048)]
    pub token_budget: usize,
    /// First tokens of the text, the attention sinks, that are always kept; part of the budget.
    #[config(default = 4)]
    pub sink_tokens: usize,
    /// Leading layers that read every page.
    #[config(default = 2)]
    pub dense_layers: usize,
}

impl StreamingConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// When the budget holds no token besides the first ones.
    pub fn init(&self) -> Result<StreamingPolicy, PolicyError> {
        if self.token_budget <= self.sink_tokens {
            return Err(PolicyError::TokenBudget {
                policy: "streaming",
                least: self.sink_tokens + 1,
                why: "the first tokens and the newest",
                found: self.token_budget,
            });
        }
        Ok(StreamingPolicy {
            config: self.clone(),
        })
    }
}

/// Reads the first tokens and the most recent ones
/// ([StreamingLLM](https://arxiv.org/abs/2309.17453)).
///
/// Every head of every layer behind the dense ones reads the same tokens, and never one that it has
/// not read the step before, except the newest: the budget holds from the first decoded token on,
/// whatever the length of the prompt.
#[derive(Clone, Debug)]
pub struct StreamingPolicy {
    config: StreamingConfig,
}

impl TryFrom<&PolicyConfig> for StreamingPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        let rope = config.rope.clone().ok_or(PolicyError::NoRope)?;
        StreamingConfig::new(WindowPositions::InWindow(rope))
            .with_token_budget(config.quest.token_budget)
            .with_dense_layers(config.quest.dense_layers)
            .init()
    }
}

impl PagePolicy for StreamingPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let config = &self.config;
        let kept = |&length: &usize| length.min(config.token_budget);
        if cache.index() < config.dense_layers || step.lengths().iter().all(|n| kept(n) == *n) {
            return Pages::All;
        }
        let [_, n_kv_heads, _, head_dim] = cache.keys().dims();
        let device = query.device();
        let window = |length: &usize| -> Tensor<2, Int> {
            let (length, kept) = (*length, kept(length));
            let sinks = config.sink_tokens.min(kept);
            let recent = length - (kept - sinks)..length;
            let positions = (0..sinks).chain(recent).map(|p| p as i32);
            let positions = TensorData::new(positions.collect::<Vec<_>>(), [1, kept]);
            Tensor::<2, Int>::from_data(positions, &device).expand([n_kv_heads, kept])
        };
        let shift = match &config.positions {
            WindowPositions::InText => None,
            WindowPositions::InWindow(rope) => Some(KeyShift {
                rope: rope.init(head_dim, &device),
                first: config.sink_tokens,
                by: step.lengths().iter().map(|n| n - kept(n)).collect(),
            }),
        };
        Pages::Tokens(TokenLists {
            positions: step.lengths().iter().map(window).collect(),
            shift,
        })
    }
}
