use serde_json::json;

use super::{
    family::{Family, GgufFamily},
    windows,
};
use crate::config::{Activation, Blocks};

/// GGUF files call it Llama, and do not say which one a model without a window is.
pub(super) const FAMILY: Family = Family {
    classes: &["MistralForCausalLM"],
    model_types: &["mistral"],
    gguf: Some(GgufFamily {
        is_it: |keys| Ok(!keys.has_experts()? && keys.has_windows()?),
        is_permuted: true,
        fields: |keys| Ok(json!({ "sliding_window": keys.window()? })),
        ..GgufFamily::new("llama")
    }),
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
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
    renamed: &[],
    left_out: &[],
};
