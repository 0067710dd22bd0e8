use core::ops::Range;

use burn::{
    nn::{Embedding, Linear, RmsNorm},
    tensor::{DType, Device, Int, Tensor},
};
use quest_burn::{
    attention::rms_norm,
    cache::{PagedKvCache, Step},
    inference::{InferenceLinear, QuantizationError, RowRounding, WeightFormat},
    policy::PagePolicy,
};

use super::InferenceLayer;
use crate::{
    activation_sparsity::{ExpertsError, Projection},
    model::{CausalLm, DecoderLayer, LanguageModel, capped},
};

/// A [`CausalLm`] for inference only, with merged projections.
///
/// Should be created with `CausalLm::into`, or with [`InferenceLm::with_weights`] where the weights
/// of the layers' projections are to be rounded. Embeddings, norms, biases and the projection to
/// logits are not rounded in any case; the last may stay in the blocks that a checkpoint has it in. Matrices may
/// be in f16 or bf16 where all else is in f32.
#[derive(Clone, Debug)]
pub struct InferenceLm {
    embed_tokens: Embedding,
    layers: Vec<InferenceLayer>,
    norm: RmsNorm,
    /// Shares the weights of the embedding where the model ties them.
    lm_head: InferenceLinear,
    /// What embeddings are multiplied by.
    embedding_scale: Option<f64>,
    /// What logits are kept below.
    logit_soft_cap: Option<f64>,
}

impl From<CausalLm> for InferenceLm {
    /// One layer at a time, so that no more than one layer's weights are there twice.
    fn from(model: CausalLm) -> Self {
        let lm_head = lm_head(model.lm_head.map(Into::into), &model.embed_tokens);
        Self {
            layers: model.layers.into_iter().map(Into::into).collect(),
            embed_tokens: model.embed_tokens,
            norm: model.norm,
            lm_head,
            embedding_scale: model.embedding_scale,
            logit_soft_cap: model.logit_soft_cap,
        }
    }
}

impl InferenceLm {
    /// A model with the weights of its layers' projections in the given form. One layer at a time is
    /// there in full beside the result.
    ///
    /// # Errors
    ///
    /// When the form does not fit a layer.
    pub fn with_weights(model: CausalLm, format: WeightFormat) -> Result<Self, QuantizationError> {
        let layers = model.layers.into_iter().map(Ok::<_, QuantizationError>);
        let lm = Self::from_layers(
            model.embed_tokens,
            layers,
            model.norm,
            model.lm_head,
            format,
        )?;
        Ok(lm
            .with_embedding_scale(model.embedding_scale)
            .with_logit_soft_cap(model.logit_soft_cap))
    }

    /// The model with what its embeddings are multiplied by.
    pub fn with_embedding_scale(self, embedding_scale: Option<f64>) -> Self {
        Self {
            embedding_scale,
            ..self
        }
    }

    /// The model with what its logits are kept below.
    pub fn with_logit_soft_cap(self, logit_soft_cap: Option<f64>) -> Self {
        Self {
            logit_soft_cap,
            ..self
        }
    }

    /// The same of layers that come one by one, each of them taken once the one before is in its
    /// form and dropped: a model that fits the device only in that form can be loaded so.
    ///
    /// The embedding stands for a projection to logits that is absent.
    ///
    /// # Errors
    ///
    /// When a layer is an error, or the form does not fit it.
    pub fn from_layers<E: From<QuantizationError>>(
        embed_tokens: Embedding,
        layers: impl IntoIterator<Item = Result<DecoderLayer, E>>,
        norm: RmsNorm,
        lm_head: Option<Linear>,
        format: WeightFormat,
    ) -> Result<Self, E> {
        let device = embed_tokens.weight.device();
        let mut quantized = Vec::new();
        for layer in layers {
            quantized.push(InferenceLayer::from(layer?).with_weights(format)?);
            if format.quantization().is_some() {
                // What is queued holds on to the layer's full weights.
                device.sync().map_err(QuantizationError::from)?;
            }
        }
        let lm_head = lm_head.map(InferenceLinear::from);
        Ok(Self::from_parts(embed_tokens, quantized, norm, lm_head))
    }

    /// The model with what `map` makes of its layers' projections, given the layer's index.
    ///
    /// # Errors
    ///
    /// As `map`, and when a layer has experts.
    pub(crate) fn map_projections<E: From<ExpertsError>>(
        self,
        mut map: impl FnMut(usize, Projection, InferenceLinear) -> Result<InferenceLinear, E>,
    ) -> Result<Self, E> {
        let layers = self.layers.into_iter().enumerate().map(|(index, layer)| {
            let mapped = layer.map_projections(|projection, linear| map(index, projection, linear));
            mapped?.ok_or_else(|| ExpertsError { layer: index }.into())
        });
        Ok(Self {
            layers: layers.collect::<Result<_, E>>()?,
            ..self
        })
    }

    /// The embedding and the projection to logits.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> (&Embedding, &InferenceLinear) {
        (&self.embed_tokens, &self.lm_head)
    }

    pub(crate) fn from_parts(
        embed_tokens: Embedding,
        layers: Vec<InferenceLayer>,
        norm: RmsNorm,
        lm_head: Option<InferenceLinear>,
    ) -> Self {
        Self {
            lm_head: self::lm_head(lm_head, &embed_tokens),
            layers,
            embed_tokens,
            norm,
            embedding_scale: None,
            logit_soft_cap: None,
        }
    }
}

fn lm_head(lm_head: Option<InferenceLinear>, embed_tokens: &Embedding) -> InferenceLinear {
    // Nothing comes after logits that would average the rounding of their rows, and greedy tokens are chosen by
    // small margins.
    lm_head
        .unwrap_or_else(|| InferenceLinear::new(embed_tokens.weight.val(), None))
        .with_row_rounding(RowRounding::Sixteen)
}

impl LanguageModel for InferenceLm {
    fn vocab_size(&self) -> usize {
        self.embed_tokens.weight.dims()[0]
    }

    fn device(&self) -> Device {
        self.embed_tokens.weight.device()
    }

    fn dtype(&self) -> DType {
        // An embedding may stay in halves.
        self.norm.gamma.dtype()
    }

    fn is_capturable(&self) -> bool {
        self.layers.iter().all(InferenceLayer::is_capturable)
    }

    fn embedded(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let hidden = self.embed_tokens.forward(ids);
        let dtype = self.dtype();
        let hidden = match hidden.dtype() == dtype {
            true => hidden,
            false => hidden.cast(dtype),
        };
        match self.embedding_scale {
            Some(scale) => hidden * scale,
            None => hidden,
        }
    }

    fn through(
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
        let layers = &self.layers[layers];
        // One for layers without a window, one for those with; none where layers are not rotated.
        let rotations = [false, true].map(|windowed| {
            let mut layers = layers.iter().filter(|layer| layer.is_rotated());
            let first = layers.find(|layer| layer.window().is_some() == windowed);
            first.and_then(|layer| layer.rotations(step))
        });
        for (index, layer) in layers.iter().enumerate() {
            let rotations = &rotations[usize::from(layer.window().is_some())];
            let rotations = rotations.as_ref().filter(|_| layer.is_rotated());
            let cache = cache.layer_mut(index);
            hidden = layer.forward_cache(hidden, cache, step, rotations, policy);
        }
        hidden
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
        let hidden = self.embedded(ids);
        let layers = 0..self.layers.len();
        let hidden = self.through(hidden, layers, cache, step, policy);
        self.normed(hidden)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, d_model] = hidden.dims();
        let logits = self
            .lm_head
            .forward(hidden.reshape([batch * tokens, d_model]));
        let logits = logits.reshape([batch, tokens, self.vocab_size()]);
        capped(logits, self.logit_soft_cap)
    }
}
