use quest_burn::attention::{RopeConfig, Temperature, Window};
use serde::{Deserialize, Serialize};

use super::fields::{Fields, MAX_SIZE};
use crate::error::ModelError;

/// What the layers of a model are made of; by default what Llama's are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blocks {
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of the attention has a bias.
    pub output_bias: bool,
    /// Whether the projections of the feed-forward block have biases.
    pub mlp_bias: bool,
    /// Whether query and key heads are normed.
    pub qk_norm: bool,
    /// Whether the outputs of attention and feed-forward blocks are normed before they are added.
    pub output_norms: bool,
    /// Whether checkpoints hold the projections that read the same hidden states in one tensor.
    pub merged_projections: bool,
    /// Whether checkpoints hold the weights of norms less one.
    pub norms_less_one: bool,
    /// What the gate of a feed-forward block goes through.
    pub activation: Activation,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f64>,
    /// What products of queries and keys are multiplied by; `1 / sqrt(head_dim)` where it is absent.
    pub attention_scale: Option<f64>,
    /// What attention scores are kept below, as `cap * tanh(score / cap)`.
    pub attention_soft_cap: Option<f64>,
    /// What logits are kept below in the same way.
    pub logit_soft_cap: Option<f64>,
    /// Sliding windows, where some layers have one.
    pub windows: Option<Windows>,
    /// Whether checkpoints rotate neighbouring channels of a head, not those half a head apart.
    pub neighbours_rotated: bool,
    /// Layers without a rotary embedding.
    pub unrotated_layers: Vec<usize>,
    /// What queries of those layers are multiplied by.
    pub temperature: Option<Temperature>,
    /// Whether norms of queries and keys, of layers with a rotary embedding only, have no weights.
    pub plain_qk_norm: bool,
    /// Experts in the place of feed-forward blocks.
    pub experts: Option<Experts>,
}

impl Blocks {
    /// Whether query and key heads of a layer are normed.
    pub(crate) fn norms_queries(&self, layer: usize) -> bool {
        self.qk_norm && !(self.plain_qk_norm && self.unrotated_layers.contains(&layer))
    }

    /// Whether a decode step of a model of `n_layers` such layers needs nothing of the host, so that it can be
    /// recorded: what [`LanguageModel::is_capturable`](crate::model::LanguageModel::is_capturable) says once it is
    /// loaded.
    pub fn is_capturable(&self, n_layers: usize) -> bool {
        (0..n_layers).all(|layer| {
            let windows = self.windows.as_ref().filter(|windows| windows.has(layer));
            let experts = self.experts.as_ref();
            Self::layer_is_capturable(
                windows.map(Windows::window),
                self.attention_soft_cap,
                experts.is_some_and(|experts| experts.has(layer)),
            )
        })
    }

    /// Whether some of `n_layers` layers see a sliding window only.
    pub fn has_windows(&self, n_layers: usize) -> bool {
        let windows = self.windows.as_ref();
        windows.is_some_and(|windows| (0..n_layers).any(|layer| windows.has(layer)))
    }

    /// The same of a layer: in sliding windows, with a cap on scores and for experts the host says what is read.
    pub(crate) fn layer_is_capturable(
        window: Option<Window>,
        soft_cap: Option<f64>,
        has_experts: bool,
    ) -> bool {
        window.is_none() && soft_cap.is_none() && !has_experts
    }
}

/// What the gate of a feed-forward block goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// SiLU, also called swish.
    #[default]
    Silu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    const SUPPORTED: &str = "silu, gelu_pytorch_tanh";

    /// What a field names; SiLU where it is absent.
    pub(crate) fn read(fields: &Fields<'_>, name: &'static str) -> Result<Self, ModelError> {
        match fields.optional::<String>(name)?.as_deref() {
            None | Some("silu" | "swish") => Ok(Self::Silu),
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Self::GeluTanh),
            Some(other) => Err(fields.unsupported(name, other, Self::SUPPORTED)),
        }
    }
}

/// Layers in which a token sees the newest tokens only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// Tokens that are seen, the newest among them.
    pub tokens: usize,
    /// Whether only those of a token's own chunk are seen, in chunks of so many tokens.
    #[serde(default)]
    pub are_chunks: bool,
    /// Whether a layer has a window, for each of them.
    pub layers: Vec<bool>,
    /// Rotary position embedding of these layers, where it is another than that of the others.
    pub rope: Option<RopeConfig>,
}

impl Windows {
    /// What a token sees in a layer with a window.
    pub fn window(&self) -> Window {
        let tokens = self.tokens;
        match self.are_chunks {
            true => Window::Chunk { tokens },
            false => Window::Sliding { tokens },
        }
    }

    /// Whether a layer has a window.
    pub fn has(&self, layer: usize) -> bool {
        self.layers.get(layer).copied().unwrap_or(false)
    }

    /// Whether a model with such windows differs from one without in a context of so many tokens.
    pub(crate) fn matter(&self, max_positions: usize) -> bool {
        let is_shorter = self.tokens < max_positions || self.rope.is_some();
        is_shorter && self.layers.contains(&true)
    }
}

/// Feed-forward blocks of which a router chooses some for each token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token goes through.
    pub chosen: usize,
    /// Channels inside an expert.
    pub d_ff: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub is_normed: bool,
    /// How the router's logits become weights.
    #[serde(default)]
    pub routing: Routing,
    /// Channels inside an expert that all tokens go through beside those that are chosen.
    #[serde(default)]
    pub shared_d_ff: Option<usize>,
    /// Layers with one feed-forward block and no experts.
    pub dense_layers: Vec<usize>,
}

/// How a router's logits become weights of the experts that are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// By a softmax over all of them; outputs are multiplied.
    #[default]
    Softmax,
    /// By a sigmoid of each; what goes into an expert is multiplied.
    SigmoidOfInputs,
}

impl Experts {
    /// Of the numbers in two fields.
    pub(crate) fn read(fields: &Fields<'_>, count: &str, d_ff: usize) -> Result<Self, ModelError> {
        const CHOSEN: &str = "num_experts_per_tok";
        const MAX_EXPERTS: usize = 1 << 12;
        let count = fields.size(count, MAX_EXPERTS)?;
        let chosen = fields.size(CHOSEN, MAX_SIZE)?;
        if chosen > count {
            let problem = format!("expected at most the {count} experts, found {chosen}");
            return Err(fields.invalid(CHOSEN, problem));
        }
        Ok(Self {
            count,
            chosen,
            d_ff,
            is_normed: false,
            routing: Routing::default(),
            shared_d_ff: None,
            dense_layers: Vec::new(),
        })
    }

    /// Whether a layer has experts.
    pub fn has(&self, layer: usize) -> bool {
        !self.dense_layers.contains(&layer)
    }
}
