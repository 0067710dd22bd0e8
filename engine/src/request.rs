use std::sync::Arc;

use quest_burn::{
    QuestConfig, QuestConfigError,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::sampling::{SamplingConfig, TokenMask};

/// What is asked of an [`Engine`](crate::Engine): ids to go on from, and how.
#[derive(Debug)]
pub struct Request {
    /// The prompt.
    pub ids: Vec<u32>,
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Tokens that end the answer; the one that did is given out last.
    pub stop_ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingConfig,
    /// What is done to logits before that.
    pub adjustments: Adjustments,
    /// Where given, each token comes with its log-probability and with so many of the most probable ones.
    pub logprobs: Option<usize>,
    /// What new tokens attend to. Prompts attend densely.
    pub policy: Policy,
    /// Which tokens may come next, by a grammar.
    pub mask: Option<Box<dyn TokenMask>>,
    /// Whether tokens come with the pages that each layer read for them. This slows the answer down.
    pub watch: bool,
}

impl Request {
    /// Up to `max_new_tokens` tokens after `ids`, each the most probable one, by dense attention.
    pub fn new(ids: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            ids,
            max_new_tokens,
            stop_ids: Vec::new(),
            sampling: SamplingConfig::new(),
            adjustments: Adjustments::default(),
            logprobs: None,
            policy: Policy::Dense,
            mask: None,
            watch: false,
        }
    }

    /// The same with tokens that end the answer.
    pub fn with_stop_ids(self, stop_ids: Vec<u32>) -> Self {
        Self { stop_ids, ..self }
    }

    /// The same with another way of choosing tokens.
    pub fn with_sampling(self, sampling: SamplingConfig) -> Self {
        Self { sampling, ..self }
    }

    /// The same with adjusted logits.
    pub fn with_adjustments(self, adjustments: Adjustments) -> Self {
        Self {
            adjustments,
            ..self
        }
    }

    /// The same with log-probabilities of each token and of so many of the most probable ones.
    pub fn with_logprobs(self, logprobs: Option<usize>) -> Self {
        Self { logprobs, ..self }
    }

    /// The same with another policy.
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// The same under a grammar.
    pub fn with_mask(self, mask: Option<Box<dyn TokenMask>>) -> Self {
        Self { mask, ..self }
    }

    /// The same, with what each layer read.
    pub fn with_watch(self, watch: bool) -> Self {
        Self { watch, ..self }
    }
}

/// What new tokens of a request attend to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything.
    Dense,
    /// The pages that Quest chooses.
    Quest(QuestConfig),
}

impl Policy {
    /// Quest with a budget of tokens, else as it is by default.
    pub fn quest(token_budget: usize) -> Self {
        Self::Quest(QuestConfig::new().with_token_budget(token_budget))
    }

    /// The policy itself.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate`] fails.
    pub fn init(&self) -> Result<Arc<dyn PagePolicy>, QuestConfigError> {
        Ok(match self {
            Self::Dense => Arc::new(DensePolicy),
            Self::Quest(config) => Arc::new(config.init()?),
        })
    }
}

/// What is done to logits before the sampler sees them, as in OpenAI's interface. Log-probabilities are
/// those of the model, without it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adjustments {
    /// Taken off the logit of a token that the answer has already.
    pub presence_penalty: f32,
    /// Taken off the logit of a token for each time that the answer has it.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub bias: Vec<(u32, f32)>,
}
