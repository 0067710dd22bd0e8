use burn::tensor::{
    DType, Device, ExecutionError, Int, Tensor, TensorData, activation::log_softmax,
};
use quest_burn::{cache::PagedKvCache, policy::PagePolicy};

use super::{GenerateError, config::check_context};
use crate::model::LanguageModel;

/// A model at work on the one sequence of a cache.
pub struct Forward<'a> {
    pub model: &'a dyn LanguageModel,
    pub cache: &'a mut PagedKvCache,
    pub policy: &'a dyn PagePolicy,
}

impl Forward<'_> {
    /// Hidden states of prompt tokens, `[1, ids.len(), d_model]`.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<Tensor<3>, GenerateError> {
        let step = self.cache.prefill(&[ids.len()])?;
        let ids = row(ids, &self.device());
        Ok(self.model.hidden(ids, self.cache, &step, self.policy))
    }

    /// Hidden state of one more token, `[1, 1, d_model]`.
    pub fn decode(&mut self, id: u32) -> Result<Tensor<3>, GenerateError> {
        let step = self.cache.decode()?;
        let ids = row(&[id], &self.device());
        Ok(self.model.hidden(ids, self.cache, &step, self.policy))
    }

    /// Logits that follow the last of some hidden states, on the host.
    pub fn last_logits(&self, hidden: Tensor<3>) -> Result<Vec<f32>, GenerateError> {
        let logits = self.model.logits(last(hidden));
        Ok(read(logits)?)
    }

    /// Negative log-likelihood of `targets[i]` after `hidden[0, i]`: `[targets.len()]`, in f32.
    pub fn likelihoods(&self, hidden: Tensor<3>, targets: &[u32]) -> Tensor<1> {
        let logits = self.model.logits(hidden).cast(DType::F32);
        let log_probabilities = log_softmax(logits.squeeze_dim::<2>(0), 1);
        let targets = row(targets, &self.device()).swap_dims(0, 1);
        -log_probabilities.gather(1, targets).squeeze_dim::<1>(1)
    }

    /// Where the model is.
    pub fn device(&self) -> Device {
        self.model.device()
    }

    /// Number of tokens that the model knows.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Refuses a batch, and more tokens than there is room for.
    pub fn check_room(
        &self,
        prompt: usize,
        new_tokens: usize,
        max_context: Option<usize>,
    ) -> Result<(), GenerateError> {
        let batch = self.cache.batch();
        if batch != 1 {
            return Err(GenerateError::Batch { batch });
        }
        let prompt = self.cache.lengths()[0] + prompt;
        check_context(prompt, new_tokens, max_context)?;
        let pages = self.cache.pages()[0].len() + self.cache.free_pages();
        let per_sequence = self.cache.config().max_pages_per_sequence;
        let pages = per_sequence.map_or(pages, |most| most.min(pages));
        let capacity = pages * self.cache.page_size();
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

/// The last position of hidden states, `[1, t, d_model]` -> `[1, 1, d_model]`.
pub fn last(hidden: Tensor<3>) -> Tensor<3> {
    let [_, t, _] = hidden.dims();
    hidden.narrow(1, t - 1, 1)
}

/// The values of a tensor on the host.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, ExecutionError> {
    let values = tensor.try_into_data()?.convert::<f32>().try_to_vec();
    Ok(values.expect("converted to f32 one line above"))
}

fn row(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let ids = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let shape = [1, ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), device)
}
