use burn::{
    module::Module,
    nn::{RmsNorm, RmsNormConfig},
    tensor::{Device, Tensor},
};
use quest_burn::{
    attention::{QuestAttention, QuestAttentionConfig, rms_norm},
    cache::{LayerCache, Step},
    policy::PagePolicy,
};

use super::{LAYOUT, Mlp};
use crate::config::ModelConfig;

/// One layer: attention and feed-forward block, each after a norm and added to its input.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// The attention.
    pub self_attn: QuestAttention,
    /// Norm before the feed-forward block.
    pub post_attention_layernorm: RmsNorm,
    /// The feed-forward block.
    pub mlp: Mlp,
}

impl DecoderLayer {
    pub(super) fn new(config: &ModelConfig, device: &Device) -> Self {
        let norm = || {
            RmsNormConfig::new(config.d_model)
                .with_epsilon(config.rms_norm_epsilon)
                .init(device)
        };
        Self {
            input_layernorm: norm(),
            self_attn: QuestAttentionConfig::new(config.d_model, config.n_heads)
                .with_n_kv_heads(Some(config.n_kv_heads))
                .with_head_dim(Some(config.head_dim))
                .with_qkv_bias(config.qkv_bias)
                .with_output_bias(config.output_bias)
                .with_qk_norm_epsilon(config.qk_norm.then_some(config.rms_norm_epsilon))
                .with_rope(Some(config.rope.clone()))
                .with_layout(LAYOUT)
                .init(device),
            post_attention_layernorm: norm(),
            mlp: Mlp::new(config, device),
        }
    }

    /// Without a cache: causal and differentiable.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, d_model]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.around(hidden, |normed| self.self_attn.forward(normed))
    }

    /// With a cache: see [`QuestAttention::forward_cache`].
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
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        self.around(hidden, |normed| {
            self.self_attn.forward_cache(normed, cache, step, policy)
        })
    }

    fn around(
        &self,
        hidden: Tensor<3>,
        attention: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        let hidden = hidden.clone() + attention(rms_norm(&self.input_layernorm, hidden));
        let normed = rms_norm(&self.post_attention_layernorm, hidden.clone());
        hidden + self.mlp.forward(normed)
    }
}
