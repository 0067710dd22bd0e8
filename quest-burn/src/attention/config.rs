use burn::{
    config::Config,
    nn::{DropoutConfig, Initializer, Linear, LinearConfig, LinearLayout, RmsNormConfig},
    tensor::Device,
};

use super::{QuestAttention, RopeConfig, Temperature};
use crate::pages::Window;

/// Configuration to create a [`QuestAttention`] layer using the [init function](Self::init).
#[derive(Config, Debug)]
pub struct QuestAttentionConfig {
    /// Size of the hidden states.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// KV heads, each shared by `n_heads / n_kv_heads` query heads; `n_heads` when not given.
    pub n_kv_heads: Option<usize>,
    /// Channels of a head; `d_model / n_heads` when not given.
    pub head_dim: Option<usize>,
    /// Whether the query, key and value projections have biases.
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    #[config(default = false)]
    pub output_bias: bool,
    /// Epsilon of an RMSNorm over the channels of each query and key head, before RoPE; no such
    /// norm when not given.
    pub qk_norm_epsilon: Option<f64>,
    /// Rotary position embedding of queries and keys; none when not given.
    pub rope: Option<RopeConfig>,
    /// What products of queries and keys are multiplied by; `1 / sqrt(head_dim)` when not given.
    pub scale: Option<f64>,
    /// What scores are kept below, as `soft_cap * tanh(score / soft_cap)`; not capped when not given.
    pub soft_cap: Option<f64>,
    /// Which of the tokens before it a token sees; all when not given.
    pub window: Option<Window>,
    /// What queries are multiplied by that grows with their position; nothing when not given.
    pub temperature: Option<Temperature>,
    /// Dropout of the attention weights while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Memory layout of the projections.
    #[config(default = "LinearLayout::Row")]
    pub layout: LinearLayout,
    /// How the projections are initialised.
    #[config(
        default = "Initializer::KaimingUniform{gain: 1.0 / 3f64.sqrt(), fan_out_only: false}"
    )]
    pub initializer: Initializer,
}

impl QuestAttentionConfig {
    /// Initialises a [`QuestAttention`] layer.
    ///
    /// # Panics
    ///
    /// When the query heads are not a multiple of the KV heads, or `d_model` of `n_heads` where no
    /// head dim is given, when a window holds no token, or a cap is no number above 0.
    pub fn init(&self, device: &Device) -> QuestAttention {
        let n_kv_heads = self.n_kv_heads.unwrap_or(self.n_heads);
        assert!(
            n_kv_heads > 0 && self.n_heads.is_multiple_of(n_kv_heads),
            "query heads: expected a multiple of the {n_kv_heads} KV heads, found {}",
            self.n_heads
        );
        let head_dim = self.head_dim.unwrap_or_else(|| {
            assert!(
                self.d_model.is_multiple_of(self.n_heads),
                "d_model: expected a multiple of the {} heads, found {}",
                self.n_heads,
                self.d_model
            );
            self.d_model / self.n_heads
        });
        assert!(
            self.window.is_none_or(|window| window.tokens() > 0),
            "sliding window: expected at least 1 token, found 0"
        );
        assert!(
            self.soft_cap.is_none_or(|cap| cap.is_finite() && cap > 0.0),
            "cap on scores: expected a number above 0, found {:?}",
            self.soft_cap
        );
        let norm = || {
            self.qk_norm_epsilon.map(|epsilon| {
                RmsNormConfig::new(head_dim)
                    .with_epsilon(epsilon)
                    .init(device)
            })
        };
        let (queries, keys) = (self.n_heads * head_dim, n_kv_heads * head_dim);
        QuestAttention {
            q_proj: self.linear(self.d_model, queries, self.qkv_bias, device),
            k_proj: self.linear(self.d_model, keys, self.qkv_bias, device),
            v_proj: self.linear(self.d_model, keys, self.qkv_bias, device),
            o_proj: self.linear(queries, self.d_model, self.output_bias, device),
            q_norm: norm(),
            k_norm: norm(),
            rope: self.rope.as_ref().map(|rope| rope.init(head_dim, device)),
            dropout: DropoutConfig::new(self.dropout).init(),
            scale: self.scale.unwrap_or(1.0 / (head_dim as f64).sqrt()),
            soft_cap: self.soft_cap,
            window: self.window,
            temperature: self.temperature,
            n_heads: self.n_heads,
            n_kv_heads,
            head_dim,
        }
    }

    fn linear(&self, d_input: usize, d_output: usize, bias: bool, device: &Device) -> Linear {
        LinearConfig::new(d_input, d_output)
            .with_bias(bias)
            .with_initializer(self.initializer.clone())
            .with_layout(self.layout)
            .init(device)
    }
}
