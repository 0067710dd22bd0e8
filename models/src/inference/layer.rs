use burn::{nn::RmsNorm, tensor::Tensor};
use quest_burn::{
    attention::{Rotations, Window},
    cache::{LayerCache, Step},
    inference::{InferenceAttention, InferenceLinear, QuantizationError, WeightFormat},
    policy::PagePolicy,
};

use super::feed_forward::InferenceFeedForward;
use crate::{activation_sparsity::Projection, config::Blocks, model::DecoderLayer};

/// A [`DecoderLayer`] with merged projections.
#[derive(Clone, Debug)]
pub struct InferenceLayer {
    input_layernorm: RmsNorm,
    self_attn: InferenceAttention,
    /// Norm before the feed-forward block.
    feed_forward_norm: RmsNorm,
    mlp: InferenceFeedForward,
    /// Norm of the feed-forward block's output before it is added.
    output_norm: Option<RmsNorm>,
}

impl From<DecoderLayer> for InferenceLayer {
    fn from(layer: DecoderLayer) -> Self {
        let norms = LayerNorms::of(&layer);
        Self::from_parts(norms, layer.self_attn.into(), layer.mlp.into())
    }
}

impl InferenceLayer {
    pub(crate) fn from_parts(
        norms: LayerNorms,
        self_attn: InferenceAttention,
        mlp: InferenceFeedForward,
    ) -> Self {
        Self {
            input_layernorm: norms.input,
            self_attn: self_attn.with_output_norm(norms.after_attention),
            feed_forward_norm: norms.feed_forward,
            mlp,
            output_norm: norms.after,
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
            mlp: self.mlp.with_weights(format)?,
            ..self
        })
    }

    /// The layer with what `map` makes of its projections; nothing where the feed-forward block has experts.
    pub(super) fn map_projections<E>(
        self,
        mut map: impl FnMut(Projection, InferenceLinear) -> Result<InferenceLinear, E>,
    ) -> Result<Option<Self>, E> {
        let mut of_attention = [Projection::QueriesKeysValues, Projection::Output].into_iter();
        let self_attn = self.self_attn.map_projections(|linear| {
            let projection = of_attention.next().expect("attention has two projections");
            map(projection, linear)
        })?;
        let mlp = self.mlp.map_projections(map)?;
        Ok(mlp.map(|mlp| Self {
            self_attn,
            mlp,
            ..self
        }))
    }

    /// Whether queries and keys are rotated.
    pub(super) fn is_rotated(&self) -> bool {
        self.self_attn.is_rotated()
    }

    /// Which tokens a token sees where the layer has a window.
    pub fn window(&self) -> Option<Window> {
        self.self_attn.window()
    }

    /// Whether a decode step needs nothing of the host.
    pub(super) fn is_capturable(&self) -> bool {
        let has_experts = !matches!(self.mlp, InferenceFeedForward::Gated(_));
        Blocks::layer_is_capturable(self.window(), self.self_attn.soft_cap(), has_experts)
    }

    /// The rotations of a step's new tokens, the same in every layer that has a window and in every
    /// layer that has none.
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
        let (norm, output_norm) = (&self.feed_forward_norm, self.output_norm.as_ref());
        self.mlp.forward(hidden, norm, output_norm)
    }
}

/// The norms of a layer by their places.
pub(crate) struct LayerNorms {
    input: RmsNorm,
    after_attention: Option<RmsNorm>,
    feed_forward: RmsNorm,
    after: Option<RmsNorm>,
}

impl LayerNorms {
    pub(crate) fn of(layer: &DecoderLayer) -> Self {
        let [after_attention, after] = layer.output_norms();
        Self {
            input: layer.input_layernorm.clone(),
            after_attention: after_attention.cloned(),
            feed_forward: layer.feed_forward_norm().clone(),
            after: after.cloned(),
        }
    }
}
