use core::{fmt::Debug, ops::Range};

use burn::tensor::{DType, Device, Int, Tensor};
use quest_burn::{
    attention::rms_norm,
    cache::{PagedKvCache, Step},
    policy::PagePolicy,
};

use super::{CausalLm, FeedForward};
use crate::config::Blocks;

/// A model that text is generated with and scored by, whatever the form of its weights.
pub trait LanguageModel: Debug + Send + Sync {
    /// Number of tokens that the model knows.
    fn vocab_size(&self) -> usize;

    /// Where the model is.
    fn device(&self) -> Device;

    /// Element type of its embeddings, and so of keys and values.
    fn dtype(&self) -> DType;

    /// Whether a decode step needs nothing of the host, so that it can be recorded. Sliding windows,
    /// experts, and pages of layers with a cap on scores are looked for there.
    fn is_capturable(&self) -> bool;

    /// What goes into the first layer.
    ///
    /// # Shapes
    ///
    /// - ids: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    fn embedded(&self, ids: Tensor<2, Int>) -> Tensor<3>;

    /// What comes out of some adjacent layers for a step's new tokens; their keys and values are appended to the
    /// cache, which is one of these layers.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, max_new_tokens, d_model]`
    /// - output: `[batch, max_new_tokens, d_model]`
    ///
    /// # Panics
    ///
    /// When there are no such layers, or the cache was not made for them.
    fn through(
        &self,
        hidden: Tensor<3>,
        layers: Range<usize>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3>;

    /// The final norm of what comes out of the last layer, `[batch, tokens, d_model]`.
    fn normed(&self, hidden: Tensor<3>) -> Tensor<3>;

    /// Last hidden states of a step's new tokens, after the final norm; their keys and values are
    /// appended to the cache. [`logits`](Self::logits) takes those that are of interest.
    ///
    /// # Shapes
    ///
    /// - ids: `[batch, max_new_tokens]`
    /// - output: `[batch, max_new_tokens, d_model]`
    ///
    /// # Panics
    ///
    /// When the cache was not made for this model.
    fn hidden(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3>;

    /// Logits of the next token for last hidden states.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, vocab_size]`
    fn logits(&self, hidden: Tensor<3>) -> Tensor<3>;
}

impl LanguageModel for CausalLm {
    fn vocab_size(&self) -> usize {
        self.embed_tokens.weight.dims()[0]
    }

    fn device(&self) -> Device {
        self.embed_tokens.weight.device()
    }

    fn dtype(&self) -> DType {
        self.embed_tokens.weight.dtype()
    }

    fn is_capturable(&self) -> bool {
        self.layers.iter().all(|layer| {
            let attention = &layer.self_attn;
            let has_experts = matches!(layer.mlp, FeedForward::Experts(_));
            Blocks::layer_is_capturable(attention.window, attention.soft_cap, has_experts)
        })
    }

    fn embedded(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        CausalLm::embedded(self, ids)
    }

    fn through(
        &self,
        hidden: Tensor<3>,
        layers: Range<usize>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        CausalLm::through(self, hidden, layers, cache, step, policy)
    }

    fn normed(&self, hidden: Tensor<3>) -> Tensor<3> {
        rms_norm(&self.norm, hidden)
    }

    fn hidden(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        CausalLm::hidden(self, ids, cache, step, policy)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        CausalLm::logits(self, hidden)
    }
}
