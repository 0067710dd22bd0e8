use serde_json::json;

use super::{
    family::{Family, GgufFamily},
    windows,
};
use crate::config::{Activation, Blocks};

pub(super) const FAMILY: Family = Family {
    classes: &["Qwen2ForCausalLM"],
    model_types: &["qwen2"],
    gguf: Some(GgufFamily::new("qwen2")),
    absent: || {
        json!({
            "max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096,
            "max_window_layers": 28
        })
    },
    blocks: |fields| {
        Ok(Blocks {
            qkv_bias: true,
            windows: windows::where_used(fields)?,
            activation: Activation::read(fields, "hidden_act")?,
            ..Blocks::default()
        })
    },
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
    renamed: &[],
    left_out: &[],
};
