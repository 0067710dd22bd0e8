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

use super::{FeedForward, LAYOUT};
use crate::config::{ModelConfig, Windows};

/// One layer: attention and feed-forward block, each after a norm and added to its input; in some models
/// their outputs are normed before they are added.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// The attention.
    pub self_attn: QuestAttention,
    /// Norm before the feed-forward block; that of the attention's output in layers that have
    /// [output norms](Self::output_norms).
    pub post_attention_layernorm: RmsNorm,
    /// Norm before the feed-forward block in layers with output norms.
    pub pre_feedforward_layernorm: Option<RmsNorm>,
    /// Norm of the feed-forward block's output.
    pub post_feedforward_layernorm: Option<RmsNorm>,
    /// The feed-forward block.
    pub mlp: FeedForward,
}

impl DecoderLayer {
    /// The layer of an index, counted from 0.
    pub(super) fn new(config: &ModelConfig, index: usize, device: &Device) -> Self {
        let blocks = &config.blocks;
        let windows = blocks.windows.as_ref().filter(|windows| windows.has(index));
        let rope = windows.and_then(|windows| windows.rope.as_ref());
        let is_rotated = !blocks.unrotated_layers.contains(&index);
        let norms = blocks.norms_queries(index);
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
                .with_qkv_bias(blocks.qkv_bias)
                .with_output_bias(blocks.output_bias)
                .with_qk_norm_epsilon(norms.then_some(config.rms_norm_epsilon))
                .with_rope(is_rotated.then(|| rope.unwrap_or(&config.rope).clone()))
                .with_temperature(blocks.temperature.filter(|_| !is_rotated))
                .with_scale(blocks.attention_scale)
                .with_soft_cap(blocks.attention_soft_cap)
                .with_window(windows.map(Windows::window))
                .with_layout(LAYOUT)
                .init(device),
            post_attention_layernorm: norm(),
            pre_feedforward_layernorm: blocks.output_norms.then(norm),
            post_feedforward_layernorm: blocks.output_norms.then(norm),
            mlp: FeedForward::new(config, index, device),
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
        let (before, [after_attention, after]) = (self.feed_forward_norm(), self.output_norms());
        let add = |hidden: Tensor<3>, output: Tensor<3>, norm: Option<&RmsNorm>| match norm {
            Some(norm) => hidden + rms_norm(norm, output),
            None => hidden + output,
        };
        let attended = attention(rms_norm(&self.input_layernorm, hidden.clone()));
        let hidden = add(hidden, attended, after_attention);
        let output = self.mlp.forward(rms_norm(before, hidden.clone()));
        add(hidden, output, after)
    }

    /// The norm before the feed-forward block.
    pub fn feed_forward_norm(&self) -> &RmsNorm {
        let before = self.pre_feedforward_layernorm.as_ref();
        before.unwrap_or(&self.post_attention_layernorm)
    }

    /// The norms of the outputs of attention and feed-forward block, where the layer has them.
    pub fn output_norms(&self) -> [Option<&RmsNorm>; 2] {
        let after = self.post_feedforward_layernorm.as_ref();
        [after.map(|_| &self.post_attention_layernorm), after]
    }
}
