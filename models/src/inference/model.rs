use burn::{
    nn::{Embedding, RmsNorm},
    tensor::{Device, Int, Tensor},
};
use quest_burn::{
    attention::rms_norm,
    cache::{PagedKvCache, Step},
    inference::InferenceLinear,
    policy::PagePolicy,
};

use super::InferenceLayer;
use crate::model::{CausalLm, LanguageModel};

/// A [`CausalLm`] for inference only, with merged projections.
///
/// Should be created with `CausalLm::into`.
#[derive(Clone, Debug)]
pub struct InferenceLm {
    embed_tokens: Embedding,
    layers: Vec<InferenceLayer>,
    norm: RmsNorm,
    /// Shares the weights of the embedding where the model ties them.
    lm_head: InferenceLinear,
}

impl From<CausalLm> for InferenceLm {
    /// One layer at a time, so that no more than one layer's weights are there twice.
    fn from(model: CausalLm) -> Self {
        let lm_head = match model.lm_head {
            Some(lm_head) => lm_head.into(),
            None => InferenceLinear::new(model.embed_tokens.weight.val(), None),
        };
        Self {
            layers: model.layers.into_iter().map(Into::into).collect(),
            embed_tokens: model.embed_tokens,
            norm: model.norm,
            lm_head,
        }
    }
}

impl LanguageModel for InferenceLm {
    fn vocab_size(&self) -> usize {
        self.embed_tokens.weight.dims()[0]
    }

    fn device(&self) -> Device {
        self.embed_tokens.weight.device()
    }

    fn hidden(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        assert_eq!(
            self.layers.len(),
            cache.n_layers(),
            "layers of model and KV cache"
        );
        let mut hidden = self.embed_tokens.forward(ids);
        let rotations = self.layers.first().and_then(|layer| layer.rotations(step));
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = cache.layer_mut(index);
            hidden = layer.forward_cache(hidden, cache, step, rotations.as_ref(), policy);
        }
        rms_norm(&self.norm, hidden)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, d_model] = hidden.dims();
        let logits = self
            .lm_head
            .forward(hidden.reshape([batch * tokens, d_model]));
        logits.reshape([batch, tokens, self.vocab_size()])
    }
}
