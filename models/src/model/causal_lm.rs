use core::ops::Range;

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig},
    tensor::{Device, Int, Tensor},
};
use quest_burn::{
    attention::{project, rms_norm},
    cache::{PagedKvCache, Step},
    policy::PagePolicy,
};

use super::{DecoderLayer, LAYOUT};
use crate::config::ModelConfig;

/// A decoder-only language model: token ids to logits of the next token.
///
/// Should be created using [`ModelConfig::init`], or loaded with [`crate::weights::load`].
#[derive(Module, Debug)]
pub struct CausalLm {
    /// Token embeddings, `[vocab_size, d_model]`.
    pub embed_tokens: Embedding,
    /// The layers.
    pub layers: Vec<DecoderLayer>,
    /// Norm of the last hidden states.
    pub norm: RmsNorm,
    /// Projection to logits; the embeddings serve where there is none.
    pub lm_head: Option<Linear>,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f64>,
    /// What logits are kept below.
    pub logit_soft_cap: Option<f64>,
}

impl ModelConfig {
    /// Initialises a [`CausalLm`] with random weights.
    pub fn init(&self, device: &Device) -> CausalLm {
        CausalLm {
            embed_tokens: EmbeddingConfig::new(self.vocab_size, self.d_model).init(device),
            layers: (0..self.n_layers)
                .map(|index| DecoderLayer::new(self, index, device))
                .collect(),
            norm: RmsNormConfig::new(self.d_model)
                .with_epsilon(self.rms_norm_epsilon)
                .init(device),
            lm_head: (!self.tie_word_embeddings).then(|| {
                LinearConfig::new(self.d_model, self.vocab_size)
                    .with_bias(false)
                    .with_layout(LAYOUT)
                    .init(device)
            }),
            embedding_scale: self.blocks.embedding_scale,
            logit_soft_cap: self.blocks.logit_soft_cap,
        }
    }
}

impl CausalLm {
    /// Logits at every position of whole sequences, without a cache; differentiable.
    ///
    /// # Shapes
    ///
    /// - ids: `[batch, tokens]`
    /// - output: `[batch, tokens, vocab_size]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let hidden = self
            .layers
            .iter()
            .fold(self.embedded(ids), |hidden, layer| layer.forward(hidden));
        self.logits(rms_norm(&self.norm, hidden))
    }

    pub(super) fn embedded(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let hidden = self.embed_tokens.forward(ids);
        match self.embedding_scale {
            Some(scale) => hidden * scale,
            None => hidden,
        }
    }

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
    pub fn hidden(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let hidden = self.embedded(ids);
        let layers = 0..self.layers.len();
        let hidden = self.through(hidden, layers, cache, step, policy);
        rms_norm(&self.norm, hidden)
    }

    /// Some adjacent layers, over a cache of these.
    pub(super) fn through(
        &self,
        mut hidden: Tensor<3>,
        layers: Range<usize>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        assert_eq!(
            layers.len(),
            cache.n_layers(),
            "layers of model and KV cache"
        );
        for (index, layer) in self.layers[layers].iter().enumerate() {
            hidden = layer.forward_cache(hidden, cache.layer_mut(index), step, policy);
        }
        hidden
    }

    /// Logits of the next token for last hidden states.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, vocab_size]`
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        capped(self.products(hidden), self.logit_soft_cap)
    }

    fn products(&self, hidden: Tensor<3>) -> Tensor<3> {
        let Some(lm_head) = &self.lm_head else {
            // A view of the embedding; two axes, since with three it would be copied.
            let [batch, tokens, d_model] = hidden.dims();
            let embedding = self.embed_tokens.weight.val();
            let logits = hidden
                .reshape([batch * tokens, d_model])
                .matmul(embedding.transpose());
            let [_, vocab_size] = logits.dims();
            return logits.reshape([batch, tokens, vocab_size]);
        };
        project(lm_head, hidden)
    }
}

/// Logits below a cap in size, where there is one.
pub(crate) fn capped(logits: Tensor<3>, cap: Option<f64>) -> Tensor<3> {
    match cap {
        Some(cap) => (logits / cap).tanh() * cap,
        None => logits,
    }
}
