use burn::{nn::RmsNorm, tensor::Tensor};
use quest_burn::{
    attention::Rotations,
    cache::{LayerCache, Step},
    inference::{InferenceAttention, InferenceLinear, QuantizationError, WeightFormat},
    policy::PagePolicy,
};

use crate::model::{DecoderLayer, Mlp};

/// A [`DecoderLayer`] with merged projections.
#[derive(Clone, Debug)]
pub struct InferenceLayer {
    input_layernorm: RmsNorm,
    self_attn: InferenceAttention,
    post_attention_layernorm: RmsNorm,
    mlp: InferenceMlp,
}

impl From<DecoderLayer> for InferenceLayer {
    fn from(layer: DecoderLayer) -> Self {
        Self {
            input_layernorm: layer.input_layernorm,
            self_attn: layer.self_attn.into(),
            post_attention_layernorm: layer.post_attention_layernorm,
            mlp: layer.mlp.into(),
        }
    }
}

impl InferenceLayer {
    pub(crate) fn from_parts(
        input_layernorm: RmsNorm,
        self_attn: InferenceAttention,
        post_attention_layernorm: RmsNorm,
        gate_up_proj: InferenceLinear,
        down_proj: InferenceLinear,
    ) -> Self {
        Self {
            input_layernorm,
            self_attn,
            post_attention_layernorm,
            mlp: InferenceMlp {
                gate_up_proj,
                down_proj,
            },
        }
    }

    /// The layer with the weights of its projections in another form.
    ///
    /// # Errors
    ///
    /// When the form does not fit the layer.
    pub fn with_weights(self, format: WeightFormat) -> Result<Self, QuantizationError> {
        Ok(Self {
            self_attn: self.self_attn.with_weights(format)?,
            mlp: InferenceMlp {
                gate_up_proj: self.mlp.gate_up_proj.with_weights(format)?,
                down_proj: self.mlp.down_proj.with_weights(format)?,
            },
            ..self
        })
    }

    /// The rotations of a step's new tokens, the same in every layer.
    pub fn rotations(&self, step: &Step) -> Option<Rotations> {
        self.self_attn.rotations(step)
    }

    /// As [`DecoderLayer::forward_cache`], given the [rotations](Self::rotations).
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, max_new_tokens, d_model]`
    /// - output: `[batch, max_new_tokens, d_model]`
    pub fn forward_cache(
        &self,
        hidden: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        rotations: Option<&Rotations>,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let norm = &self.input_layernorm;
        let hidden = self
            .self_attn
            .forward_cache(hidden, norm, cache, step, rotations, policy);
        self.mlp.forward(hidden, &self.post_attention_layernorm)
    }
}

/// An [`Mlp`] with its projections to the gate and to what is gated merged.
#[derive(Clone, Debug)]
struct InferenceMlp {
    gate_up_proj: InferenceLinear,
    down_proj: InferenceLinear,
}

impl From<Mlp> for InferenceMlp {
    fn from(mlp: Mlp) -> Self {
        Self {
            gate_up_proj: InferenceLinear::merge([mlp.gate_proj, mlp.up_proj]),
            down_proj: mlp.down_proj.into(),
        }
    }
}

impl InferenceMlp {
    /// Of what `norm` makes of `hidden`, `[batch, tokens, d_model]`, and added to `hidden`.
    fn forward(&self, hidden: Tensor<3>, norm: &RmsNorm) -> Tensor<3> {
        let [batch, tokens, d_model] = hidden.dims();
        let rows = hidden.reshape([batch * tokens, d_model]);
        let gated = self.gate_up_proj.forward_normed_gated(rows.clone(), norm);
        let sum = self.down_proj.forward_added(gated, rows);
        sum.reshape([batch, tokens, d_model])
    }
}
