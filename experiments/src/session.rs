//! A model at work on one sequence: prefill once, then go on from there in several ways.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn::{
    cache::{DigestFormat, PagedKvCache},
    inference::WeightFormat,
    policy::PagePolicy,
};
use quest_burn_models::{
    config::ModelConfig,
    generation::{GenerateError, LikelihoodMode, check_ids, negative_log_likelihoods},
    inference::InferenceLm,
    model::LanguageModel,
    tokenizer::Tokenizer,
};

use crate::ExperimentError;

/// What experiments are made with: a model, its tokenizer, and where it computes.
#[derive(Debug)]
pub struct Subject {
    /// The model.
    pub model: InferenceLm,
    /// Its configuration.
    pub config: ModelConfig,
    /// Its tokenizer, if it has one; experiments on token ids need none.
    pub tokenizer: Option<Tokenizer>,
    /// Where it is.
    pub device: Device,
    /// Element type of weights and KV cache.
    pub dtype: DType,
    /// Form of the digests in the KV cache.
    pub digests: DigestFormat,
    /// Form of the weights of the layers' projections.
    pub weights: WeightFormat,
}

impl Subject {
    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, ExperimentError> {
        require_tokenizer(self.tokenizer.as_ref())
    }

    /// A session with room for `tokens` tokens in pages of `page_size`.
    ///
    /// # Errors
    ///
    /// When the cache cannot be made: there is no room to be made, or the page size, or the head dim
    /// with these digests, is not one that is supported.
    pub fn session(&self, tokens: usize, page_size: usize) -> Result<Session<'_>, GenerateError> {
        let cache = self.config.cache(page_size, 1, tokens);
        let cache = cache.with_digests(self.digests);
        Ok(Session {
            model: &self.model,
            cache: cache.init(&self.device, self.dtype)?,
        })
    }
}

/// The tokenizer, for an experiment that cannot do without.
///
/// # Errors
///
/// When there is none.
pub fn require_tokenizer(tokenizer: Option<&Tokenizer>) -> Result<&Tokenizer, ExperimentError> {
    tokenizer.ok_or_else(|| {
        let expected = format!("{} beside the weights", Tokenizer::FILE);
        ExperimentError::setting("tokenizer", expected, "none")
    })
}

/// A model and the cache of one sequence.
///
/// What was prefilled can be gone on from several times: [`rewind`](Self::rewind) leaves the cache,
/// with its digests and what policies remember, as it was at that length.
#[derive(Debug)]
pub struct Session<'a> {
    model: &'a InferenceLm,
    cache: PagedKvCache,
}

impl Session<'_> {
    /// Appends prompt tokens, which attend densely, `chunk` at a time. `progress` is told how many
    /// are done.
    ///
    /// Gives the hidden state after the last of them, for [`logits`](Self::logits) and
    /// [`best`](Self::best).
    ///
    /// # Errors
    ///
    /// When there are no ids, an id is outside the vocabulary, the chunk is empty, the cache is
    /// full, or the device fails.
    pub fn prefill(
        &mut self,
        ids: &[u32],
        chunk: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Tensor<3>, GenerateError> {
        if chunk == 0 {
            return Err(GenerateError::Chunk);
        }
        check_ids(ids, self.model.vocab_size())?;
        let mut done = 0;
        let mut last = Err(GenerateError::EmptyPrompt);
        for ids in ids.chunks(chunk) {
            let step = self.cache.prefill(&[ids.len()])?;
            // The pages that a prompt reads are not chosen by a policy.
            let policy = quest_burn::policy::DensePolicy;
            let hidden = self.forward(ids, &step, &policy);
            last = Ok(hidden.narrow(1, ids.len() - 1, 1));
            self.device().sync()?;
            done += ids.len();
            progress(done);
        }
        last
    }

    /// Appends one token, whose attention reads what `policy` chooses, and gives the hidden state
    /// after it, `[1, 1, d_model]`.
    ///
    /// # Errors
    ///
    /// When the id is outside the vocabulary or the cache is full.
    pub fn decode(&mut self, id: u32, policy: &dyn PagePolicy) -> Result<Tensor<3>, GenerateError> {
        check_ids(&[id], self.model.vocab_size())?;
        let step = self.cache.decode()?;
        Ok(self.forward(&[id], &step, policy))
    }

    fn forward(
        &mut self,
        ids: &[u32],
        step: &quest_burn::cache::Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let shape = [1, ids.len()];
        let ids = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &self.device());
        self.model.hidden(ids, &mut self.cache, step, policy)
    }

    /// The logits that follow a hidden state, on the host in f32.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn logits(&self, hidden: Tensor<3>) -> Result<Vec<f32>, GenerateError> {
        let logits = self.model.logits(hidden).try_into_data()?;
        let logits = logits.convert::<f32>().try_to_vec::<f32>();
        Ok(logits.expect("converted to f32 one line above"))
    }

    /// The most probable token after a hidden state; the lowest id of several.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn best(&self, hidden: Tensor<3>) -> Result<u32, GenerateError> {
        let logits = self.logits(hidden)?;
        let best = (0..logits.len()).reduce(|best, id| match logits[id] > logits[best] {
            true => id,
            false => best,
        });
        Ok(best.unwrap_or(0) as u32)
    }

    /// Negative log-likelihood of every id but the first, in nats. The first is appended densely,
    /// the others through `policy`; the last is not appended. `progress` is told how many are
    /// scored.
    ///
    /// # Errors
    ///
    /// When there are fewer than two ids, an id is outside the vocabulary, the cache is full, a
    /// likelihood is not a finite number, or the device fails.
    pub fn likelihoods(
        &mut self,
        ids: &[u32],
        policy: &dyn PagePolicy,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, GenerateError> {
        let mode = LikelihoodMode::Decode { prefill: 1 };
        negative_log_likelihoods(self.model, &mut self.cache, policy, ids, mode, progress)
    }

    /// Goes back to when the sequence had `length` tokens.
    ///
    /// # Errors
    ///
    /// When it has fewer.
    pub fn rewind(&mut self, length: usize) -> Result<(), GenerateError> {
        Ok(self.cache.truncate(0, length)?)
    }

    /// Tokens that the cache holds.
    pub fn length(&self) -> usize {
        self.cache.lengths()[0]
    }

    /// The cache.
    pub fn cache(&self) -> &PagedKvCache {
        &self.cache
    }

    /// Waits until the device has done what it was given.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn sync(&self) -> Result<(), GenerateError> {
        Ok(self.device().sync()?)
    }

    fn device(&self) -> Device {
        self.model.device()
    }
}
