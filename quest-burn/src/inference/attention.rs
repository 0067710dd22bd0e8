use burn::{
    nn::RmsNorm,
    tensor::{Tensor, assert_shape},
};

use super::InferenceLinear;
use crate::{
    attention::{QuestAttention, Rope, rms_norm},
    cache::{LayerCache, Phase, Step},
    ops,
    policy::PagePolicy,
};

/// A [`QuestAttention`] with its projections to queries, keys and values merged.
#[derive(Clone, Debug)]
pub struct InferenceAttention {
    /// To the query heads, the key heads and the value heads.
    qkv_proj: InferenceLinear,
    o_proj: InferenceLinear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    rope: Option<Rope>,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl From<QuestAttention> for InferenceAttention {
    fn from(layer: QuestAttention) -> Self {
        Self {
            qkv_proj: InferenceLinear::merge([layer.q_proj, layer.k_proj, layer.v_proj]),
            o_proj: layer.o_proj.into(),
            q_norm: layer.q_norm,
            k_norm: layer.k_norm,
            rope: layer.rope,
            n_heads: layer.n_heads,
            n_kv_heads: layer.n_kv_heads,
            head_dim: layer.head_dim,
        }
    }
}

impl InferenceAttention {
    /// As [`QuestAttention::forward_cache`].
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
        cache: &mut LayerCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let [_, _, d_model] = hidden.dims();
        let (batch, tokens) = (step.batch(), step.max_new_tokens());
        assert_shape!(hidden, [batch, tokens, d_model]);
        let query = self.append(hidden.reshape([batch * tokens, d_model]), cache, step);
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let heads = match step.phase() {
            Phase::Prefill => ops::prefill_attention(query, cache, step, scale).swap_dims(1, 2),
            // One token: heads are in order as they are.
            Phase::Decode => policy
                .attention(query.squeeze_dim::<3>(2), cache, step, scale)
                .unsqueeze_dim(1),
        };
        let rows = heads.reshape([batch * tokens, self.n_heads * self.head_dim]);
        self.o_proj.forward(rows).reshape([batch, tokens, d_model])
    }

    /// Appends the keys and values of hidden states `[batch * tokens, d_model]`, and gives the
    /// queries `[batch, n_heads, tokens, head_dim]`.
    fn append(&self, hidden: Tensor<2>, cache: &mut LayerCache, step: &Step) -> Tensor<4> {
        let heads = self.n_heads + 2 * self.n_kv_heads;
        let qkv = self
            .qkv_proj
            .forward(hidden)
            .reshape([step.batch(), step.max_new_tokens(), heads, self.head_dim])
            .swap_dims(1, 2);
        let query = qkv.clone().narrow(1, 0, self.n_heads);
        let keys = qkv.clone().narrow(1, self.n_heads, self.n_kv_heads);
        let values = qkv.narrow(1, self.n_heads + self.n_kv_heads, self.n_kv_heads);
        let rotations = self
            .rope
            .as_ref()
            .map(|rope| rope.rotations(step.positions().clone()));
        let prepare = |heads: Tensor<4>, norm: &Option<RmsNorm>| {
            let heads = match norm {
                Some(norm) => rms_norm(norm, heads),
                None => heads,
            };
            match &rotations {
                Some(rotations) => rotations.apply(heads),
                None => heads,
            }
        };
        ops::append(cache, prepare(keys, &self.k_norm), values, step);
        prepare(query, &self.q_norm)
    }
}
