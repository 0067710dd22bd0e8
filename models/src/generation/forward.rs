use burn::tensor::{DType, ExecutionError, Tensor, activation::log_softmax};
use quest_burn::cache::PagedKvCache;

use super::{
    GenerateError, Policies,
    config::check_context,
    prefill::{ChunkDone, prefill_until, rows},
};
use crate::{lazy::LaterStages, model::LanguageModel};

/// A model at work on the one sequence of a cache.
pub(crate) struct Forward<'a> {
    pub model: &'a dyn LanguageModel,
    pub cache: &'a mut PagedKvCache,
    pub policies: Policies<'a>,
    /// The stages behind the cache's layers, where tokens of prompts leave.
    pub stages: Option<&'a mut LaterStages>,
}

impl Forward<'_> {
    /// Hidden state after the last of some prompt tokens, `[1, 1, d_model]`.
    pub(crate) fn prefill(
        &mut self,
        ids: &[u32],
        chunk: usize,
        done: Option<ChunkDone<'_>>,
    ) -> Result<Tensor<3>, GenerateError> {
        if let Some(stages) = &mut self.stages {
            return stages.prefill(self.model, self.cache, ids, chunk, done);
        }
        let policy = self.policies.prefill;
        prefill_until(self.model, self.cache, policy, &[ids], chunk, done)
    }

    /// Forgets what the caches hold behind the first `length` tokens.
    pub(crate) fn go_back(&mut self, length: usize) -> Result<(), GenerateError> {
        self.cache.truncate(0, length)?;
        match &mut self.stages {
            Some(stages) => stages.truncate(length),
            None => Ok(()),
        }
    }

    /// Hidden states of prompt tokens that go through the model at once, `[1, ids.len(), d_model]`.
    pub(crate) fn prefill_all(&mut self, ids: &[u32]) -> Result<Tensor<3>, GenerateError> {
        if self.stages.is_some() {
            return Err(GenerateError::LazyLikelihoods);
        }
        let step = self.cache.prefill(&[ids.len()])?;
        let ids = rows(vec![ids.to_vec()], ids.len(), self.model);
        let policy = self.policies.prefill;
        Ok(self.model.hidden(ids, self.cache, &step, policy))
    }

    /// Hidden state of one more token, `[1, 1, d_model]`.
    pub(crate) fn decode(&mut self, id: u32) -> Result<Tensor<3>, GenerateError> {
        let policy = self.policies.decode;
        if let Some(stages) = &mut self.stages {
            return stages.decode(self.model, self.cache, policy, id);
        }
        (self.cache).free_all_but(|layer, sequence| policy.pages_held(layer, sequence))?;
        let step = self.cache.decode()?;
        let ids = rows(vec![vec![id]], 1, self.model);
        Ok(self.model.hidden(ids, self.cache, &step, policy))
    }

    /// Logits that follow hidden states, `[1, tokens, vocab_size]`. The cache hears how uncertain the last of
    /// them are, where the policy asks for it.
    pub(crate) fn logits(&mut self, hidden: Tensor<3>) -> Result<Tensor<3>, GenerateError> {
        let logits = self.model.logits(hidden);
        self.hear(&logits)?;
        Ok(logits)
    }

    /// Notes how uncertain the model is after its newest token.
    fn hear(&mut self, logits: &Tensor<3>) -> Result<(), GenerateError> {
        if self.policies.decode.hears_entropy() {
            let [_, rows, _] = logits.dims();
            let newest = logits.clone().slice_dim(1, rows - 1..rows);
            let log_probabilities = log_softmax(newest.cast(DType::F32), 2);
            // Tokens that cannot follow have no part in it: their product would be 0 * -inf.
            let terms = log_probabilities.clone().exp() * log_probabilities.clamp_min(f32::MIN);
            let entropy = -read(terms.sum())?[0];
            self.cache.note_entropy(0, entropy)?;
            if let Some(stages) = &mut self.stages {
                stages.note_entropy(entropy)?;
            }
        }
        Ok(())
    }

    /// Negative log-likelihood of `targets[i]` after `hidden[0, i]`: `[targets.len()]`, in f32.
    pub(crate) fn likelihoods(
        &mut self,
        hidden: Tensor<3>,
        targets: &[u32],
    ) -> Result<Tensor<1>, GenerateError> {
        let logits = self.logits(hidden)?.cast(DType::F32);
        let log_probabilities = log_softmax(logits.squeeze_dim::<2>(0), 1);
        let targets = rows(vec![targets.to_vec()], targets.len(), self.model).swap_dims(0, 1);
        Ok(-log_probabilities.gather(1, targets).squeeze_dim::<1>(1))
    }

    /// Number of tokens that the model knows.
    pub(crate) fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Tokens that the cache holds.
    pub(crate) fn length(&self) -> usize {
        self.cache.lengths()[0]
    }

    /// Refuses a batch, and more tokens than there is room for.
    pub(crate) fn check_room(
        &self,
        prompt: usize,
        new_tokens: usize,
        max_context: Option<usize>,
    ) -> Result<(), GenerateError> {
        let batch = self.cache.batch();
        if batch != 1 {
            return Err(GenerateError::Batch { batch });
        }
        let prompt = self.length() + prompt;
        check_context(prompt, new_tokens, max_context)?;
        let capacity = match self.policies.decode.frees_pages() {
            // As long as its row of the page table; what it has to keep shows as it grows.
            true => self.cache.config().max_pages() * self.cache.page_size(),
            false => capacity(self.cache),
        };
        // The last new token is not fed back, so it takes no room.
        if prompt.saturating_add(new_tokens.saturating_sub(1)) > capacity {
            return Err(GenerateError::Capacity {
                prompt,
                new_tokens,
                capacity,
            });
        }
        Ok(())
    }
}

/// Tokens that the one sequence of a cache can have.
pub(crate) fn capacity(cache: &PagedKvCache) -> usize {
    let pages = cache.pages()[0].len() + cache.free_pages();
    let per_sequence = cache.config().max_pages_per_sequence;
    per_sequence.map_or(pages, |most| most.min(pages)) * cache.page_size()
}

/// The values of a tensor on the host.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, ExecutionError> {
    let values = tensor.try_into_data()?.convert::<f32>().try_to_vec();
    Ok(values.expect("converted to f32 one line above"))
}
