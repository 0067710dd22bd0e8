//! A conversation with a [`LocalModel`]: what it holds can be gone on from, forked, and gone back in.

mod ids;
mod new_ids;
mod statistics;
mod text;

pub use ids::IdStream;
pub use statistics::Statistics;
pub use text::TextStream;

use new_ids::NewIds;

use std::sync::Arc;

use burn::tensor::Tensor;
use quest_burn::{
    cache::{CacheError, PagedKvCache, PagedKvCacheConfig},
    policy::PagePolicy,
};

use crate::{
    generation::{
        Forward, GenerateError, GenerationConfig, LikelihoodMode, Timings, capacity, check_context,
        check_ids, negative_log_likelihoods,
    },
    local::LocalModel,
    sampling::SamplingConfig,
    speculative::LosslessConfig,
    tokenizer::Tokenizer,
};

/// The tokens of one sequence, with their KV cache and the policy that new ones are decoded by.
///
/// Made by [`LocalModel::session`]. Its [ids](Self::ids) are in the cache but for the last few: a
/// token that was just chosen is fed when the next one is asked for.
///
/// Prompt tokens attend densely, decoded ones through the policy. A chat program renders the whole
/// conversation for each turn; [`align`](Self::align) keeps what the session holds of it, so that
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
    /// How the policy drafts, where dense attention verifies what it gives.
    lossless: Option<LosslessConfig>,
    cache: PagedKvCache,
    /// Tokens up to which the cache grows; none where it does not.
    limit: Option<usize>,
    /// The cache holds the first of them.
    ids: Vec<u32>,
    /// Hidden state after the last token in the cache, `[1, 1, d_model]`.
    last: Option<Tensor<3>>,
    timings: Timings,
}

impl Session {
    /// Tokens of a prompt that go through the model at once where nothing else is asked for.
    const CHUNK: usize = 512;

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
    /// When the cache cannot be made or is for several sequences.
    pub fn with_cache(
        model: &LocalModel,
        cache: &PagedKvCacheConfig,
    ) -> Result<Self, GenerateError> {
        if cache.batch != 1 {
            return Err(GenerateError::Batch { batch: cache.batch });
        }
        Ok(Self {
            cache: cache.init(&model.device(), model.dtype())?,
            policy: model.policy().clone(),
            lossless: None,
            model: model.clone(),
            limit: None,
            ids: Vec::new(),
            last: None,
            timings: Timings::default(),
        })
    }

    /// Appends a text and goes on from it: an iterator of the new text, piece by piece. A text that
    /// follows others has no token of a beginning.
    ///
    /// # Errors
    ///
    /// As [`generate_ids`](Self::generate_ids), and when the model has no tokenizer or the text
    /// cannot be encoded.
    pub fn generate(
        &mut self,
        text: &str,
        config: GenerationConfig,
    ) -> Result<TextStream<'_>, GenerateError> {
        let tokenizer = self.tokenizer()?;
        let ids = match self.is_empty() {
            true => tokenizer.encode(text)?,
            false => tokenizer.encode_continuation(text)?,
        };
        self.generate_ids(&ids, config)?.into_text()
    }

    /// Appends ids and goes on from them: an iterator of the new ids, which are appended too.
    /// Without ids it goes on from where the session is.
    ///
    /// # Errors
    ///
    /// When there is nothing to go on from, an id is outside the vocabulary, there is no room in the
    /// context or the cache, or the configuration is invalid. Nothing was computed then, and the
    /// session is as before.
    pub fn generate_ids(
        &mut self,
        ids: &[u32],
        mut config: GenerationConfig,
    ) -> Result<IdStream<'_>, GenerateError> {
        if config.stop_ids.is_none() {
            config.stop_ids = Some(self.model.stop_ids().to_vec());
        }
        let mut prompt = self.ids[self.cached()..].to_vec();
        prompt.extend_from_slice(ids);
        // The logits after the last token are those of feeding it.
        let again = self.ids.last().filter(|_| prompt.is_empty()).copied();
        prompt.extend(again);
        config.check(&prompt, self.model.model().vocab_size())?;
        let length = self.ids.len() + ids.len();
        check_context(length, config.max_new_tokens, config.max_context)?;
        self.make_room(length, config.max_new_tokens)?;
        if again.is_some() {
            self.cache.truncate(0, self.ids.len() - 1)?;
        }
        self.last = None;
        let stop_strings = config.stop_strings.clone();
        let (model, cache, policy) = (self.model.model(), &mut self.cache, &*self.policy);
        let mut new = NewIds::new(model, cache, policy, &prompt, config, self.lossless)?;
        new.observe(&self.ids);
        self.ids.extend_from_slice(ids);
        Ok(IdStream::new(
            new,
            &mut self.ids,
            &mut self.timings,
            self.model.tokenizer(),
            stop_strings,
        ))
    }

    /// Appends prompt tokens, which attend densely.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn feed(&mut self, ids: &[u32]) -> Result<(), GenerateError> {
        self.prefill_with(ids, Self::CHUNK, None)
    }

    /// The same, `chunk` tokens at a time; `progress` is told how many are done. Who stops feeding
    /// between two calls can go on later.
    ///
    /// # Errors
    ///
    /// When there are no ids, an id is outside the vocabulary, the chunk is empty, there is no room,
    /// or the device fails.
    pub fn prefill(
        &mut self,
        ids: &[u32],
        chunk: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), GenerateError> {
        self.prefill_with(ids, chunk, Some(progress))?;
        self.sync()
    }

    fn prefill_with(
        &mut self,
        ids: &[u32],
        chunk: usize,
        progress: Option<&mut dyn FnMut(usize)>,
    ) -> Result<(), GenerateError> {
        let mut fed = self.ids[self.cached()..].to_vec();
        fed.extend_from_slice(ids);
        check_ids(&fed, self.model.model().vocab_size())?;
        self.make_room(self.ids.len() + ids.len(), 0)?;
        let last = self.forward().prefill(&fed, chunk, progress);
        self.last = Some(self.or_back(last)?);
        self.ids.extend_from_slice(ids);
        Ok(())
    }

    /// Appends one token, which attends to what the policy chooses.
    ///
    /// # Errors
    ///
    /// When the id is outside the vocabulary, there is no room, or the device fails.
    pub fn decode(&mut self, id: u32) -> Result<(), GenerateError> {
        check_ids(&[id], self.model.model().vocab_size())?;
        self.make_room(self.ids.len() + 1, 0)?;
        self.ids.push(id);
        while self.cached() < self.ids.len() {
            let id = self.ids[self.cached()];
            self.last = Some(self.forward().decode(id)?);
        }
        Ok(())
    }

    /// Logits of the token after those that were [fed](Self::feed) or [decoded](Self::decode) last.
    ///
    /// # Errors
    ///
    /// When nothing was fed since the session was made, went back or generated; when the device
    /// fails.
    pub fn logits(&mut self) -> Result<Vec<f32>, GenerateError> {
        let hidden = self.last.clone().ok_or(GenerateError::NothingFed)?;
        self.forward().logits(hidden)
    }

    /// The most probable token by these logits, the lowest id of several. It is not appended.
    ///
    /// # Errors
    ///
    /// As [`logits`](Self::logits), and when they have no answer.
    pub fn most_probable(&mut self) -> Result<u32, GenerateError> {
        let logits = self.logits()?;
        let length = self.cached();
        let id = SamplingConfig::new().init()?.sample(&logits);
        id.map_err(|source| GenerateError::Sample { length, source })
    }

    /// Negative log-likelihood of each scored id given all before it, in nats. All of the ids but the
    /// last are appended. `progress` is told how many are scored.
    ///
    /// # Errors
    ///
    /// When the mode does not fit the ids, an id is outside the vocabulary, there is no room, a
    /// likelihood is not a finite number, or the device fails.
    pub fn likelihoods(
        &mut self,
        ids: &[u32],
        mode: LikelihoodMode,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, GenerateError> {
        mode.check(ids.len())?;
        if self.cached() < self.ids.len() {
            self.feed(&[])?;
        }
        let fed = &ids[..ids.len() - 1];
        self.make_room(self.ids.len() + fed.len(), 0)?;
        self.last = None;
        let scores = negative_log_likelihoods(
            self.model.model(),
            &mut self.cache,
            &*self.policy,
            ids,
            mode,
            progress,
        );
        let scores = self.or_back(scores)?;
        self.ids.extend_from_slice(fed);
        Ok(scores)
    }

    /// Makes what the session holds the beginning of `ids`: keeps the tokens that both begin with,
    /// forgets those behind them, and says how many stay. Those of `ids` from there on are to be fed;
    /// at least one is.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn align(&mut self, ids: &[u32]) -> Result<usize, GenerateError> {
        let both = self.ids.iter().zip(ids);
        let common = both.take_while(|(held, new)| held == new).count();
        let kept = common.min(ids.len().saturating_sub(1));
        self.truncate(kept)?;
        Ok(kept)
    }

    /// Goes back to the first `length` tokens: the cache, with its digests, is as it was then. What
    /// policies remember is forgotten; the tokens that stay count as a prompt.
    ///
    /// # Errors
    ///
    /// When there are fewer.
    pub fn truncate(&mut self, length: usize) -> Result<(), GenerateError> {
        if length > self.ids.len() {
            return Err(GenerateError::Cache(CacheError::Length {
                sequence: 0,
                current: self.ids.len(),
                length,
            }));
        }
        if length <= self.cached() {
            self.cache.truncate(0, length)?;
        }
        self.ids.truncate(length);
        self.last = None;
        Ok(())
    }

    /// A session of its own that holds the same.
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            policy: self.policy.clone(),
            lossless: self.lossless,
            cache: self.cache.fork(),
            limit: self.limit,
            ids: self.ids.clone(),
            last: self.last.clone(),
            timings: Timings::default(),
        }
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
    /// When no token would be drafted.
    pub fn set_lossless(&mut self, config: Option<LosslessConfig>) -> Result<(), GenerateError> {
        if let Some(config) = config {
            config.validate()?;
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

    /// The cache. It holds the first tokens; one that was just chosen is not in it yet.
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

    fn tokenizer(&self) -> Result<&Tokenizer, GenerateError> {
        self.model.tokenizer().ok_or(GenerateError::NoTokenizer)
    }

    fn cached(&self) -> usize {
        self.cache.lengths()[0]
    }

    fn forward(&mut self) -> Forward<'_> {
        Forward {
            model: self.model.model(),
            cache: &mut self.cache,
            policy: &*self.policy,
        }
    }

    /// Takes what was computed, or forgets the tokens that were fed for it.
    fn or_back<T>(&mut self, computed: Result<T, GenerateError>) -> Result<T, GenerateError> {
        if computed.is_err() && self.cached() > self.ids.len() {
            self.cache.truncate(0, self.ids.len())?;
        }
        computed
    }

    /// Enlarges the cache where it grows; where it does not, whoever takes pages refuses.
    fn make_room(&mut self, length: usize, new_tokens: usize) -> Result<(), GenerateError> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        check_context(length, new_tokens, Some(limit))?;
        let needed = length + new_tokens;
        let capacity = capacity(&self.cache);
        if needed > capacity {
            // Doubled, so that a growing conversation is copied seldom.
            let tokens = needed.max(2 * capacity).min(limit);
            self.cache.grow(tokens.div_ceil(self.cache.page_size()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
