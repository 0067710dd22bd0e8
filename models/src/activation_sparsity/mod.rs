//! Activation sparsity: when a token is decoded, projections skip the input channels that matter least to it,
//! and their weights are not read.
//!
//! A channel of a row matters where `|x| * ||w||` is above a threshold, with the norm of the channel's weights.
//! There is a threshold for each projection, which [`calibrate`] finds on a text, so that the same share of the
//! channels is skipped in all of them. What they would have given may be made up for by factors of low rank.
//! Prompts go through all channels. Thresholds and factors are kept in a [file](ActivationSparsity::FILE) beside
//! the checkpoint.
//!
//! Liu et al., "R-Sparse: Rank-Aware Activation Sparsity for Efficient LLM Inference", ICLR 2025, with one
//! threshold per merged projection, every channel's norm in the score, and the same sparsity everywhere.

mod apply;
mod calibrate;
mod error;
mod file;
mod histogram;

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

pub use calibrate::{Calibration, CalibrationReport, calibrate};
pub(crate) use error::ExpertsError;
pub use error::SparsityError;

use crate::config::ModelConfig;

/// The projections of a layer that read the same rows, merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// To queries, keys and values.
    QueriesKeysValues,
    /// From the heads.
    Output,
    /// To the gate of the feed-forward block, and to what is gated.
    GateUp,
    /// Back from the feed-forward block.
    Down,
}

impl Projection {
    /// All of them, in the order of a pass.
    pub const ALL: [Self; 4] = [
        Self::QueriesKeysValues,
        Self::Output,
        Self::GateUp,
        Self::Down,
    ];

    /// Its name in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueriesKeysValues => "self_attn.qkv_proj",
            Self::Output => "self_attn.o_proj",
            Self::GateUp => "mlp.gate_up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Output channels and input channels.
    fn dims(self, model: &ModelShape) -> [usize; 2] {
        // Sizes in a file may be any.
        let channels = |heads: usize| heads.saturating_mul(model.head_dim);
        let heads = (model.n_kv_heads.saturating_mul(2)).saturating_add(model.n_heads);
        match self {
            Self::QueriesKeysValues => [channels(heads), model.d_model],
            Self::Output => [model.d_model, channels(model.n_heads)],
            Self::GateUp => [model.d_ff.saturating_mul(2), model.d_model],
            Self::Down => [model.d_model, model.d_ff],
        }
    }
}

/// What skips the channels of a model's projections.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationSparsity {
    /// The shape of the model.
    pub(crate) model: ModelShape,
    /// Share of the channels that were to be skipped.
    sparsity: f64,
    /// Rank of the factors; 0 where there are none.
    rank: usize,
    /// Tokens that thresholds were found on.
    tokens: usize,
    /// By layers, and in each by [`Projection::ALL`].
    projections: Vec<ProjectionSparsity>,
}

/// The same of one projection.
#[derive(Clone, Debug, PartialEq)]
struct ProjectionSparsity {
    threshold: f32,
    /// Of the weights: tells one model from another.
    fingerprint: f32,
    low_rank: Option<Factors>,
}

/// Factors of low rank on the host, in f16.
#[derive(Clone, Debug, PartialEq)]
struct Factors {
    /// `[d_input, rank]`
    down: TensorData,
    /// `[rank, d_output]`
    up: TensorData,
}

/// What the sizes of a model's projections follow from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModelShape {
    n_layers: usize,
    d_model: usize,
    d_ff: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl ModelShape {
    fn of(config: &ModelConfig) -> Self {
        Self {
            n_layers: config.n_layers,
            d_model: config.d_model,
            d_ff: config.d_ff,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// The sizes by their names.
    fn fields(&self) -> [(&'static str, usize); 6] {
        [
            ("n_layers", self.n_layers),
            ("d_model", self.d_model),
            ("d_ff", self.d_ff),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
        ]
    }

    /// Every projection of every layer, with its layer.
    fn projections(&self) -> impl Iterator<Item = (usize, Projection)> + use<> {
        let layers = 0..self.n_layers;
        layers.flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
    }

    /// Weights of all projections.
    fn weights(&self) -> u64 {
        let sizes = self.projections().map(|(_, projection)| {
            let [d_output, d_input] = projection.dims(self);
            (d_output as u64).saturating_mul(d_input as u64)
        });
        sizes.sum()
    }
}

impl ActivationSparsity {
    /// The name of the file beside a checkpoint.
    pub const FILE: &str = "quest-sparsity.safetensors";

    /// Share of the channels that were to be skipped.
    pub fn sparsity(&self) -> f64 {
        self.sparsity
    }

    /// Rank of the factors that make up for skipped channels; 0 where there are none.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Tokens of the text that thresholds were found on.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The threshold of a projection.
    ///
    /// # Panics
    ///
    /// When the model has no such layer.
    pub fn threshold(&self, layer: usize, projection: Projection) -> f32 {
        self.of(layer, projection).threshold
    }

    /// Weights of the projections that a decoded token does not read, where the asked share is skipped, less those
    /// of the factors.
    pub fn unread_weights(&self) -> i64 {
        let skipped = (self.model.weights() as f64 * self.sparsity) as i64;
        let factors = self.model.projections().map(|(_, projection)| {
            let [d_output, d_input] = projection.dims(&self.model);
            let down = d_input as f64 * self.sparsity;
            ((d_output as f64 + down) * self.rank as f64) as i64
        });
        skipped - factors.sum::<i64>()
    }

    fn of(&self, layer: usize, projection: Projection) -> &ProjectionSparsity {
        &self.projections[layer * Projection::ALL.len() + projection as usize]
    }
}
