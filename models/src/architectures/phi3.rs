use serde_json::json;

use super::{
    family::{Family, GgufFamily, flag},
    windows,
};
use crate::config::{Activation, Blocks};

/// Phi-3 and Phi-4. Their projections are split where a checkpoint is opened.
pub(super) const FAMILY: Family = Family {
    classes: &["Phi3ForCausalLM"],
    model_types: &["phi3"],
    gguf: Some(GgufFamily {
        parts: &[
            ("attn_qkv", "self_attn.qkv_proj"),
            ("ffn_up", "mlp.gate_up_proj"),
        ],
        fields: |keys| {
            let (head_dim, rotated) = (keys.head_dim()?, keys.size("rope.dimension_count")?);
            let part = rotated.unwrap_or(head_dim) as f64 / head_dim.max(1) as f64;
            Ok(json!({ "sliding_window": keys.window()?, "partial_rotary_factor": part }))
        },
        ..GgufFamily::new("phi3")
    }),
    absent: || json!({ "max_position_embeddings": 4096, "rms_norm_eps": 1e-5 }),
    blocks: |fields| {
        if fields.has("quantization_config") {
            let (found, supported) = ("of merged projections", "weights in f32, f16 or bf16");
            return Err(fields.unsupported("quantization", found, supported));
        }
        Ok(Blocks {
            qkv_bias: flag(fields, "attention_bias")?,
            output_bias: flag(fields, "attention_bias")?,
            merged_projections: true,
            windows: windows::everywhere(fields)?,
            activation: Activation::read(fields, "hidden_act")?,
            ..Blocks::default()
        })
    },
    d_ff: "intermediate_size",
    is_rotated_in_part: true,
    renamed: &[],
    left_out: &[],
};
