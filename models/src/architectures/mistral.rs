use serde_json::json;

use super::{family::Family, windows};
use crate::config::{Activation, Blocks};

/// GGUF files call it Llama.
pub const FAMILY: Family = Family {
    classes: &["MistralForCausalLM"],
    model_types: &["mistral"],
    gguf: None,
    absent: || {
        json!({
            "max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096
        })
    },
    blocks: |fields| {
        Ok(Blocks {
            windows: windows::everywhere(fields)?,
            activation: Activation::read(fields, "hidden_act")?,
            ..Blocks::default()
        })
    },
    renamed: &[],
    left_out: &[],
};
