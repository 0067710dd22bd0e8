use burn::{
    nn::RmsNorm,
    tensor::{Tensor, assert_shape},
};

use super::{InferenceLinear, QuantizationError, WeightFormat};
use crate::{
    attention::{HeadNorms, QuestAttention, Rope, Rotations, Temperature, Window, rms_norm},
    cache::{LayerCache, Phase, Step},
    ops,
    policy::{PagePolicy, prefill_attention, within},
};

/// A [`QuestAttention`] with its projections to queries, keys and values merged.
#[derive(Clone, Debug)]
pub struct InferenceAttention {
    /// To the query heads, the key heads and the value heads.
    qkv_proj: InferenceLinear,
    o_proj: InferenceLinear,
    norms: Option<HeadNorms>,
    rope: Option<Rope>,
    /// Norm of the output before it is added.
    output_norm: Option<RmsNorm>,
    scale: f64,
    soft_cap: Option<f64>,
    window: Option<Window>,
    temperature: Option<Temperature>,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl From<QuestAttention> for InferenceAttention {
    fn from(layer: QuestAttention) -> Self {
        let QuestAttention {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            ..
        } = layer.clone();
        let qkv_proj = InferenceLinear::merge([q_proj, k_proj, v_proj]);
        Self::with_projections(layer, qkv_proj, o_proj.into())
    }
}

impl InferenceAttention {
    /// What `layer` is with other projections: to the query heads, the key heads and the value heads,
    /// and from the heads. Those of the layer are not touched, and not initialised if they were not.
    pub fn with_projections(
        layer: QuestAttention,
        qkv_proj: InferenceLinear,
        o_proj: InferenceLinear,
    ) -> Self {
        let norms = layer.q_norm.zip(layer.k_norm);
        Self {
            qkv_proj,
            o_proj,
            norms: norms.map(|(query, keys)| HeadNorms::new(query, keys)),
            rope: layer.rope,
            output_norm: None,
            scale: layer.scale,
            soft_cap: layer.soft_cap,
            window: layer.window,
            temperature: layer.temperature,
            n_heads: layer.n_heads,
            n_kv_heads: layer.n_kv_heads,
            head_dim: layer.head_dim,
        }
    }

    /// The layer with a norm of its output before that is added to the hidden states.
    pub fn with_output_norm(self, norm: Option<RmsNorm>) -> Self {
        Self {
            output_norm: norm,
            ..self
        }
    }

    /// Whether queries and keys are rotated.
    pub fn is_rotated(&self) -> bool {
        self.rope.is_some()
    }

    /// Which of the tokens before it a token sees; all of them where there is no window.
    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// What scores are kept below; see [`LayerCache::soft_cap`].
    pub fn soft_cap(&self) -> Option<f64> {
        self.soft_cap
    }

    /// The layer with the weights of its projections in another form.
    ///
    /// # Errors
    ///
    /// When the form does not fit the layer.
    pub fn with_weights(self, format: WeightFormat) -> Result<Self, QuantizationError> {
        self.map_projections(|projection| projection.with_weights(format))
    }

    /// The layer with what `map` makes of its projections: first that to queries, keys and values, then that
    /// from the heads.
    ///
    /// # Errors
    ///
    /// As `map`.
    pub fn map_projections<E>(
        self,
        mut map: impl FnMut(InferenceLinear) -> Result<InferenceLinear, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            qkv_proj: map(self.qkv_proj)?,
            o_proj: map(self.o_proj)?,
            ..self
        })
    }

    /// The rotations of a step's new tokens, the same in every layer of a model with the same rotary
    /// embedding.
    pub fn rotations(&self, step: &Step) -> Option<Rotations> {
        let rope = self.rope.as_ref()?;
        Some(rope.rotations(step.positions().clone()))
    }

    /// As [`QuestAttention::forward_cache`] of what `norm` makes of `hidden`, given the
    /// [rotations](Self::rotations), and added to `hidden`.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, max_new_tokens, d_model]`
    /// - output: `[batch, max_new_tokens, d_model]`
    ///
    /// # Panics
    ///
    /// When `hidden` does not fit the step or the layer, or the cache the layer.
    pub fn forward_cache(
        &self,
        hidden: Tensor<3>,
        norm: &RmsNorm,
        cache: &mut LayerCache,
        step: &Step,
        rotations: Option<&Rotations>,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let [_, _, d_model] = hidden.dims();
        let (batch, tokens) = (step.batch(), step.max_new_tokens());
        assert_shape!(hidden, [batch, tokens, d_model]);
        let hidden = hidden.reshape([batch * tokens, d_model]);
        let heads = self.n_heads + 2 * self.n_kv_heads;
        let qkv = self.qkv_proj.forward_normed(hidden.clone(), norm).reshape([
            batch,
            tokens,
            heads,
            self.head_dim,
        ]);
        cache.set_soft_cap(self.soft_cap);
        let query = ops::rotate_append(cache, qkv, self.norms.as_ref(), rotations, step);
        let query = match &self.temperature {
            Some(temperature) => temperature.apply(query, step.positions().clone()),
            None => query,
        };
        let heads = match step.phase() {
            Phase::Prefill => {
                prefill_attention(query, cache, step, self.scale, self.window, policy)
                    .swap_dims(1, 2)
            }
            Phase::Decode => {
                let query = query.squeeze_dim::<3>(2);
                let heads = within(self.window, policy, |policy| {
                    policy.attention(query, cache, step, self.scale)
                });
                heads.unsqueeze_dim(1)
            }
        };
        let rows = heads.reshape([batch * tokens, self.n_heads * self.head_dim]);
        let sum = match &self.output_norm {
            None => self.o_proj.forward_added(rows, hidden),
            Some(norm) => hidden + rms_norm(norm, self.o_proj.forward(rows)),
        };
        sum.reshape([batch, tokens, d_model])
    }
}
