use serde_json::json;

use super::{
    family::{Family, GgufFamily},
    windows,
};
use crate::config::{Activation, Blocks, Experts, fields::MAX_SIZE};

/// GGUF files call it Llama.
pub(super) const FAMILY: Family = Family {
    classes: &["MixtralForCausalLM"],
    model_types: &["mixtral"],
    gguf: Some(GgufFamily {
        is_it: |keys| keys.has_experts(),
        is_permuted: true,
        parts: &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("ffn_gate_exps", "block_sparse_moe.experts.*.w1"),
            ("ffn_up_exps", "block_sparse_moe.experts.*.w3"),
            ("ffn_down_exps", "block_sparse_moe.experts.*.w2"),
        ],
        fields: |keys| {
            Ok(json!({
                "num_local_experts": keys.required("expert_count")?,
                "num_experts_per_tok": keys.required("expert_used_count")?,
                "sliding_window": keys.window()?,
            }))
        },
        ..GgufFamily::new("llama")
    }),
    absent: || {
        json!({
            "max_position_embeddings": 131_072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
            "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2
        })
    },
    blocks: |fields| {
        let d_ff = fields.size("intermediate_size", MAX_SIZE)?;
        Ok(Blocks {
            windows: windows::everywhere(fields)?,
            experts: Some(Experts {
                is_normed: true,
                ..Experts::read(fields, "num_local_experts", d_ff)?
            }),
            activation: Activation::read(fields, "hidden_act")?,
            ..Blocks::default()
        })
    },
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
    renamed: &[
        (".block_sparse_moe.", ".mlp."),
        (".w1.", ".gate_proj."),
        (".w3.", ".up_proj."),
        (".w2.", ".down_proj."),
    ],
    left_out: &[],
};
