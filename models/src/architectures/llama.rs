use serde_json::json;

use super::family::{Family, GgufFamily, flag};
use crate::config::{Activation, Blocks};

pub(super) const FAMILY: Family = Family {
    classes: &["LlamaForCausalLM"],
    model_types: &["llama"],
    gguf: Some(GgufFamily {
        is_it: |keys| Ok(!keys.has_experts()? && !keys.has_windows()?),
        is_permuted: true,
        ..GgufFamily::new("llama")
    }),
    absent: || json!({ "max_position_embeddings": 2048 }),
    blocks: |fields| {
        Ok(Blocks {
            qkv_bias: flag(fields, "attention_bias")?,
            output_bias: flag(fields, "attention_bias")?,
            mlp_bias: flag(fields, "mlp_bias")?,
            activation: Activation::read(fields, "hidden_act")?,
            ..Blocks::default()
        })
    },
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
    renamed: &[],
    left_out: &[],
};
