use burn::{
    module::{Content, DisplaySettings, Module, ModuleDisplay},
    nn::{Dropout, Linear, RmsNorm},
    tensor::{Int, Tensor, assert_shape},
};

use super::{
    Rope, Temperature, Window,
    causal::{Scores, causal_attention},
    project, rms_norm,
};
use crate::{
    cache::{LayerCache, PagedKvCacheConfig, Phase, Step},
    ops,
    policy::{PagePolicy, prefill_attention, within},
};

/// Causal self-attention with grouped query heads that decodes from a paged KV cache, reading the
/// pages that a [policy](PagePolicy) chooses ([Quest](https://arxiv.org/abs/2406.10774)).
///
/// Should be created using [`QuestAttentionConfig`](super::QuestAttentionConfig), or from a
/// trained [`MultiHeadAttention`](burn::nn::attention::MultiHeadAttention) with `try_from`.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct QuestAttention {
    /// Projection to the query heads, `d_model -> n_heads * head_dim`.
    pub q_proj: Linear,
    /// Projection to the keys, `d_model -> n_kv_heads * head_dim`.
    pub k_proj: Linear,
    /// Projection to the values, `d_model -> n_kv_heads * head_dim`.
    pub v_proj: Linear,
    /// Projection of the heads' outputs, `n_heads * head_dim -> d_model`.
    pub o_proj: Linear,
    /// Norm over the channels of each query head.
    pub q_norm: Option<RmsNorm>,
    /// Norm over the channels of each key head.
    pub k_norm: Option<RmsNorm>,
    /// Rotary position embedding.
    pub rope: Option<Rope>,
    /// Dropout of the attention weights, active while training.
    pub dropout: Dropout,
    /// What products of queries and keys are multiplied by.
    pub scale: f64,
    /// What scores are kept below; see [`LayerCache::soft_cap`].
    pub soft_cap: Option<f64>,
    /// Which of the tokens before it a token sees; all of them where there is none.
    #[module(skip)]
    pub window: Option<Window>,
    /// What queries are multiplied by that grows with their position.
    #[module(skip)]
    pub temperature: Option<Temperature>,
    /// Query heads.
    pub n_heads: usize,
    /// KV heads.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

impl QuestAttention {
    /// Causal attention over whole sequences, without a cache; differentiable.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    ///
    /// When the last axis of `hidden` is not `d_model`.
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, _] = hidden.dims();
        let positions = Tensor::<1, Int>::arange(0..tokens as i64, &hidden.device())
            .reshape([1, tokens])
            .expand([batch, tokens]);
        let (query, keys, values) = self.project(hidden, positions);
        self.output(causal_attention(
            query,
            keys,
            values,
            &Scores {
                scale: self.scale,
                soft_cap: self.soft_cap,
                window: self.window,
            },
            &self.dropout,
        ))
    }

    /// Appends the step's new tokens to the cache and attends to what it holds, as `policy` says: most
    /// [read everything](PagePolicy::prefill_attention) while prefilling, and the pages that they choose while
    /// decoding. A layer with a window attends to all that is in it, whatever the policy.
    ///
    /// Outputs past the tokens that a sequence gains are undefined.
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
        assert_shape!(hidden, [step.batch(), step.max_new_tokens(), d_model]);
        let (query, keys, values) = self.project(hidden, step.positions().clone());
        cache.set_soft_cap(self.soft_cap);
        ops::append(cache, keys, values, step);
        let heads = match step.phase() {
            Phase::Prefill => {
                prefill_attention(query, cache, step, self.scale, self.window, policy)
            }
            Phase::Decode => {
                let query = query.squeeze_dim::<3>(2);
                let heads = within(self.window, policy, |policy| {
                    policy.attention(query, cache, step, self.scale)
                });
                heads.unsqueeze_dim(2)
            }
        };
        self.output(heads)
    }

    /// A KV cache for this layer, with room for one sequence of `tokens` tokens. For a model of
    /// several layers and a batch: `cache_config(tokens).for_layers(n).for_batch(b)`.
    ///
    /// ```
    /// # use burn::tensor::{DType, Device};
    /// # use quest_burn::attention::QuestAttentionConfig;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let device = Device::default();
    /// let attention = QuestAttentionConfig::new(64, 4).init(&device);
    /// let cache = attention.cache_config(1000).for_batch(2).init(&device, DType::F32)?;
    /// assert_eq!((cache.n_layers(), cache.batch(), cache.free_pages()), (1, 2, 2 * 125));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cache_config(&self, tokens: usize) -> PagedKvCacheConfig {
        let (n_kv_heads, head_dim) = (self.n_kv_heads, self.head_dim);
        let page_size = PagedKvCacheConfig::PAGE_SIZE;
        PagedKvCacheConfig::for_tokens(1, n_kv_heads, head_dim, page_size, 1, tokens)
    }

    /// Query, keys and values `[batch, heads, tokens, head_dim]`, normed and rotated.
    fn project(
        &self,
        hidden: Tensor<3>,
        positions: Tensor<2, Int>,
    ) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let query = self.heads(project(&self.q_proj, hidden.clone()), self.n_heads);
        let keys = self.heads(project(&self.k_proj, hidden.clone()), self.n_kv_heads);
        let values = self.heads(project(&self.v_proj, hidden), self.n_kv_heads);
        let prepare = |heads: Tensor<4>, norm: &Option<RmsNorm>| {
            let heads = match norm {
                Some(norm) => rms_norm(norm, heads),
                None => heads,
            };
            match &self.rope {
                Some(rope) => rope.forward(heads, positions.clone()),
                None => heads,
            }
        };
        let query = prepare(query, &self.q_norm);
        let query = match &self.temperature {
            Some(temperature) => temperature.apply(query, positions.clone()),
            None => query,
        };
        (query, prepare(keys, &self.k_norm), values)
    }

    /// `[batch, tokens, heads * head_dim]` -> `[batch, heads, tokens, head_dim]`
    fn heads(&self, projected: Tensor<3>, heads: usize) -> Tensor<4> {
        let [batch, tokens, _] = projected.dims();
        projected
            .reshape([batch, tokens, heads, self.head_dim])
            .swap_dims(1, 2)
    }

    /// `[batch, n_heads, tokens, head_dim]` -> `[batch, tokens, d_model]`
    fn output(&self, heads: Tensor<4>) -> Tensor<3> {
        let [batch, n_heads, tokens, head_dim] = heads.dims();
        let heads = heads
            .swap_dims(1, 2)
            .reshape([batch, tokens, n_heads * head_dim]);
        project(&self.o_proj, heads)
    }
}

impl ModuleDisplay for QuestAttention {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new()
            .with_new_line_after_attribute(false)
            .optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [d_model, _] = self.q_proj.weight.dims();
        content
            .add("d_model", &d_model)
            .add("n_heads", &self.n_heads)
            .add("n_kv_heads", &self.n_kv_heads)
            .add("head_dim", &self.head_dim)
            .add("qk_norm", &self.q_norm.is_some())
            .add("rope", &self.rope.is_some())
            .add("dropout", &self.dropout.prob)
            .optional()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution};

    use super::*;
    use crate::{attention::QuestAttentionConfig, cache::PagedKvCacheConfig, policy::DensePolicy};

    #[test]
    fn display_names_the_shape_of_the_layer() {
        let layer = QuestAttentionConfig::new(32, 4)
            .with_n_kv_heads(Some(2))
            .init(&Device::default());
        assert_eq!(
            format!("{layer}"),
            "QuestAttention {d_model: 32, n_heads: 4, n_kv_heads: 2, head_dim: 8, qk_norm: false, \
             rope: false, dropout: 0, params: 3072}"
        );
    }

    #[test]
    #[should_panic(expected = "query heads: expected a multiple of the 3 KV heads, found 4")]
    fn query_heads_must_be_a_multiple_of_kv_heads() {
        QuestAttentionConfig::new(32, 4)
            .with_n_kv_heads(Some(3))
            .init(&Device::default());
    }

    #[test]
    #[should_panic(expected = "axis 1 expected 2, got 3")]
    fn hidden_states_must_fit_the_step() {
        let device = Device::default();
        let layer = QuestAttentionConfig::new(32, 4).init(&device);
        let mut cache = PagedKvCacheConfig::for_tokens(1, 4, 8, 8, 1, 16)
            .init(&device, DType::F32)
            .unwrap();
        let step = cache.prefill(&[2]).unwrap();
        let hidden = Tensor::random([1, 3, 32], Distribution::Default, &device);
        layer.forward_cache(hidden, cache.layer_mut(0), &step, &DensePolicy);
    }
}
