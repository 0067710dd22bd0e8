use serde::{Deserialize, Serialize};

/// The architectures that are supported, as transformers names them.
///
/// They differ in what has biases or norms and in what an absent field means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// Llama 2 and 3.x, LongChat, Yarn-Llama-2, TinyLlama, SmolLM2.
    Llama,
    /// Mistral 7B and its kin.
    Mistral,
    /// Qwen2 and 2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: norms of queries and keys.
    Qwen3,
}

impl Architecture {
    /// All of them, for messages.
    pub(super) const SUPPORTED: &str =
        "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

    /// From an entry of `architectures`.
    pub(super) fn from_class(class: &str) -> Option<Self> {
        match class {
            "LlamaForCausalLM" => Some(Self::Llama),
            "MistralForCausalLM" => Some(Self::Mistral),
            "Qwen2ForCausalLM" => Some(Self::Qwen2),
            "Qwen3ForCausalLM" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// From `model_type`.
    pub(super) fn from_model_type(model_type: &str) -> Option<Self> {
        match model_type {
            "llama" => Some(Self::Llama),
            "mistral" => Some(Self::Mistral),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// What transformers takes an absent `max_position_embeddings` for.
    pub(super) fn default_max_positions(self) -> usize {
        match self {
            Self::Llama => 2048,
            Self::Mistral => 131_072,
            Self::Qwen2 | Self::Qwen3 => 32_768,
        }
    }

    /// What transformers takes an absent `num_key_value_heads` for; a null one always stands for
    /// as many as query heads.
    pub(super) fn default_kv_heads(self, n_heads: usize) -> usize {
        match self {
            Self::Llama => n_heads,
            Self::Mistral => 8,
            Self::Qwen2 | Self::Qwen3 => 32,
        }
    }

    /// What transformers takes an absent `head_dim` for, where it is not derived.
    pub(super) fn default_head_dim(self) -> Option<usize> {
        match self {
            Self::Qwen3 => Some(128),
            Self::Llama | Self::Mistral | Self::Qwen2 => None,
        }
    }
}
