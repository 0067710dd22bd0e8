//! What a Hugging Face `config.json` says, in one plain struct.

mod blocks;
pub(crate) mod fields;
pub(crate) mod hugging_face;
pub(crate) mod parameters;
mod rope;
mod stored_quantization;

pub use crate::architectures::Architecture;
pub use blocks::{Activation, Blocks, Experts, Routing, Windows};
pub use stored_quantization::{PackedLayout, StoredQuantization};

use std::path::Path;

use burn::tensor::DType;
use quest_burn::{
    attention::RopeConfig,
    cache::PagedKvCacheConfig,
    inference::{QuantizationError, WeightFormat},
};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// A decoder-only model of the Llama family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Which of the supported architectures it is.
    pub architecture: Architecture,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Channels of the hidden states.
    pub d_model: usize,
    /// Channels inside the feed-forward block.
    pub d_ff: usize,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads of a layer.
    pub n_heads: usize,
    /// KV heads of a layer, each shared by `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Longest context that the model is made for.
    pub max_positions: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_epsilon: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// What the layers are made of.
    #[serde(default)]
    pub blocks: Blocks,
    /// Whether the embedding is the output projection too.
    pub tie_word_embeddings: bool,
    /// How the weights of the layers' projections are stored where they are quantised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<StoredQuantization>,
    /// The dtype that the weights are said to have.
    pub dtype: Option<DType>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text: those of `generation_config.json`, or of `config.json` where there
    /// are none.
    pub stop_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// The file that describes the model, beside the weights.
    pub const FILE: &str = "config.json";
    /// The file that says where a text ends; not every checkpoint has it.
    pub const GENERATION_FILE: &str = "generation_config.json";

    /// Reads the configuration of a checkpoint: of a folder `config.json` and, where it exists,
    /// `generation_config.json`; of a GGUF file its metadata.
    ///
    /// # Errors
    ///
    /// When the checkpoint or the file is absent, is not JSON, lacks a field or has one of the wrong
    /// type, when sizes do not fit together, and when the model is of an architecture, has a
    /// rotary embedding, an activation or a quantization that is not supported. The message names
    /// the file and the field.
    pub fn from_dir(path: &Path) -> Result<Self, ModelError> {
        crate::source::open(path)?.config()
    }

    /// Parameters of the model; tied embeddings count once.
    pub fn n_parameters(&self) -> u64 {
        let sizes = parameters::shapes(self).map(|(_, shape)| shape.into_iter());
        let total = sizes
            .map(|sizes| sizes.map(|n| n as u128).product::<u128>())
            .sum::<u128>();
        total.try_into().unwrap_or(u64::MAX)
    }

    /// The name of the form of the projections' weights where `format` is asked for and the device keeps
    /// no blocks.
    pub fn weights_name(&self, format: WeightFormat) -> &'static str {
        match (self.quantization, format) {
            (Some(stored), _) => stored.name(),
            (None, WeightFormat::Stored) => WeightFormat::Full.name(),
            (None, format) => format.name(),
        }
    }

    /// Bytes of the model's weights in `dtype`, with those of the layers' projections in a form; in the
    /// one that they are stored in where they are quantised already.
    ///
    /// # Errors
    ///
    /// When the form does not fit a projection.
    pub fn weight_bytes(
        &self,
        dtype: DType,
        format: WeightFormat,
    ) -> Result<u64, QuantizationError> {
        let times = |bytes: u64, n: usize| bytes.saturating_mul(n as u64);
        let sizes = parameters::shapes(self).map(|(name, shape)| match shape[..] {
            [d_output, d_input] if parameters::is_projection(&name) => match self.quantization {
                Some(stored) => stored.config(d_input)?.bytes(d_output, d_input, dtype),
                None => format.bytes(d_output, d_input, dtype),
            },
            _ => Ok(shape.into_iter().fold(dtype.size() as u64, times)),
        });
        sizes
            .reduce(|sum, bytes| Ok(sum?.saturating_add(bytes?)))
            .unwrap_or(Ok(0))
    }

    /// A KV cache for `tokens` tokens in each of `batch` sequences.
    pub fn cache(&self, page_size: usize, batch: usize, tokens: usize) -> PagedKvCacheConfig {
        PagedKvCacheConfig::for_tokens(
            self.n_layers,
            self.n_kv_heads,
            self.head_dim,
            page_size,
            batch,
            tokens,
        )
    }
}

#[cfg(test)]
pub(crate) mod tests;
