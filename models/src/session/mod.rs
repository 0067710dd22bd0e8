//! A conversation with a [`LocalModel`]: what it holds can be gone on from, forked, and gone back in.

mod feed;
mod generate;
mod history;
mod ids;
mod new_ids;
mod statistics;
mod text;

pub use ids::IdStream;
pub use statistics::Statistics;
pub use text::TextStream;

use std::sync::Arc;

use burn::tensor::Tensor;
use quest_burn::{
    cache::{PagedKvCache, PagedKvCacheConfig},
    policy::{DensePolicy, PagePolicy},
};

use crate::{
    generation::{GenerateError, Timings, capacity, check_context},
    lazy::LaterStages,
    local::LocalModel,
    speculative::LosslessConfig,
};

/// The tokens of one sequence, with their KV cache and the policy that new ones are decoded by.
///
/// Made by [`LocalModel::session`]. Its [ids](Self::ids) are in the cache but for the last few: a
/// token that was just chosen is fed when the next one is asked for.
///
/// Prompt tokens attend densely unless the model says [otherwise](LocalModel::prefill), decoded ones through the
/// policy. A chat program renders the whole conversation for each turn; [`align`](Self::align) keeps what the session holds of it, so that
/// only what is new goes through the model:
///
/// ```
/// # use burn::tensor::Device;
/// # use quest_burn_models::{generation::GenerationConfig, local::LocalModel};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
/// # let model = LocalModel::open(path)?.load(&Device::default())?;
/// # let tokenizer = model.tokenizer().unwrap();
/// # let config = GenerationConfig::new().with_max_new_tokens(4);
/// let mut session = model.session()?;
/// let mut conversation = tokenizer.encode("The grass is green. The sky is blue.")?;
/// session.feed(&conversation)?;
///
/// conversation.truncate(6);
/// conversation.extend(tokenizer.encode_continuation(" The sun is yellow.")?);
/// let kept = session.align(&conversation)?;
/// assert_eq!(kept, 6);
/// let answer = session.generate_ids(&conversation[kept..], config)?;
/// let answer = answer.into_text()?.collect::<Result<String, _>>()?;
/// # assert!(!answer.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    model: LocalModel,
    policy: Arc<dyn PagePolicy>,
    /// What prompt tokens attend to.
    prefill_policy: Arc<dyn PagePolicy>,
    /// How the policy drafts, where dense attention verifies what it gives.
    lossless: Option<LosslessConfig>,
    /// Of all layers, or of the first stage where tokens of prompts leave.
    cache: PagedKvCache,
    stages: Option<LaterStages>,
    /// Tokens up to which the cache grows; none where it does not.
    limit: Option<usize>,
    /// The cache holds the first of them.
    ids: Vec<u32>,
    /// Hidden state after the last token in the cache, `[1, 1, d_model]`.
    last: Option<Tensor<3>>,
    timings: Timings,
}

impl Session {
    pub(crate) fn growing(model: &LocalModel) -> Result<Self, GenerateError> {
        let mut cache = model.cache(1, model.page_size());
        cache.max_pages_per_sequence = None;
        Ok(Self {
            limit: Some(model.context()),
            ..Self::with_cache(model, &cache)?
        })
    }

    /// A session with a cache of other sizes than the model's own sessions have. It does not grow.
    ///
    /// # Errors
    ///
    /// When the cache cannot be made or is for several sequences, or prompts cannot be read as the model says in
    /// its pages and layers.
    pub fn with_cache(
        model: &LocalModel,
        cache: &PagedKvCacheConfig,
    ) -> Result<Self, GenerateError> {
        if cache.batch != 1 {
            return Err(GenerateError::Batch { batch: cache.batch });
        }
        let stages = LaterStages::of(model, cache)?;
        let prefill_policy: Box<dyn PagePolicy> = match &stages {
            // What is there is attended to.
            Some(_) => Box::new(DensePolicy),
            None => model.prefill().init(cache.page_size)?,
        };
        let n_layers = (stages.as_ref()).map_or(cache.n_layers, |stages| stages.first().len());
        let first = cache.clone().for_layers(n_layers);
        Ok(Self {
            prefill_policy: prefill_policy.into(),
            cache: first.init(&model.device(), model.dtype())?,
            stages,
            policy: model.policy().clone(),
            lossless: None,
            model: model.clone(),
            limit: None,
            ids: Vec::new(),
            last: None,
            timings: Timings::default(),
        })
    }

    /// Decodes by another policy from here on.
    pub fn set_policy(&mut self, policy: Arc<dyn PagePolicy>) {
        self.policy = policy;
    }

    /// Lets dense attention verify what the policy gives from here on, so that answers are those of dense
    /// attention; none lets the policy answer by itself.
    ///
    /// # Errors
    ///
    /// When no token would be drafted, or tokens of prompts [leave](quest_burn::policy::LazyPrefillConfig): there is
    /// nothing to verify with then.
    pub fn set_lossless(&mut self, config: Option<LosslessConfig>) -> Result<(), GenerateError> {
        if let Some(config) = config {
            config.validate()?;
            if self.stages.is_some() {
                return Err(GenerateError::LazyLossless);
            }
        }
        self.lossless = config;
        Ok(())
    }

    /// What decoded tokens attend to.
    pub fn policy(&self) -> &Arc<dyn PagePolicy> {
        &self.policy
    }

    /// The model.
    pub fn model(&self) -> &LocalModel {
        &self.model
    }

    /// The tokens so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token yet.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The cache. It holds the first tokens; one that was just chosen is not in it yet. Where tokens of prompts
    /// [leave](quest_burn::policy::LazyPrefillConfig), it is that of the layers before the first place where they do.
    pub fn cache(&self) -> &PagedKvCache {
        &self.cache
    }

    /// Tokens that the session can hold.
    pub fn capacity(&self) -> usize {
        self.limit.unwrap_or_else(|| capacity(&self.cache))
    }

    /// Waits until the device has done what it was given.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn sync(&self) -> Result<(), GenerateError> {
        Ok(self.model.device().sync()?)
    }

    fn cached(&self) -> usize {
        self.cache.lengths()[0]
    }

    /// Forgets what caches hold behind the first `length` tokens.
    fn go_back(&mut self, length: usize) -> Result<(), GenerateError> {
        self.forward().go_back(length)
    }

    /// Enlarges the cache where it grows; where it does not, whoever takes pages refuses.
    fn make_room(&mut self, length: usize, new_tokens: usize) -> Result<(), GenerateError> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        check_context(length, new_tokens, Some(limit))?;
        let page_size = self.cache.page_size();
        // What is drafted is verified densely, so nothing is freed then.
        if self.policy.frees_pages() && self.lossless.is_none() {
            // What the answer keeps shows as it goes on.
            self.cache.grow_on_demand(limit.div_ceil(page_size));
            let missing = length.saturating_sub(capacity(&self.cache));
            self.cache.grow_by(missing.div_ceil(page_size));
            return Ok(());
        }
        let needed = length + new_tokens;
        let capacity = capacity(&self.cache);
        if needed > capacity {
            // Doubled, so that a growing conversation is copied seldom.
            let tokens = needed.max(2 * capacity).min(limit);
            self.cache.grow(tokens.div_ceil(page_size));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
