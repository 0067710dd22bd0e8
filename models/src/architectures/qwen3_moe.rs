use serde_json::json;

use super::{
    family::{Family, GgufFamily, flag},
    windows,
};
use crate::{
    config::{Activation, Blocks, Experts, fields::Fields, fields::MAX_SIZE},
    error::ModelError,
};

pub(super) const FAMILY: Family = Family {
    classes: &["Qwen3MoeForCausalLM"],
    model_types: &["qwen3_moe"],
    gguf: Some(GgufFamily {
        parts: &[
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_exps", "mlp.experts.*.gate_proj"),
            ("ffn_up_exps", "mlp.experts.*.up_proj"),
            ("ffn_down_exps", "mlp.experts.*.down_proj"),
        ],
        fields: |keys| {
            keys.without_windows()?;
            Ok(json!({
                "num_experts": keys.required("expert_count")?,
                "num_experts_per_tok": keys.required("expert_used_count")?,
                "moe_intermediate_size": keys.required("expert_feed_forward_length")?,
                // The files do not say; llama.cpp does so in any case.
                "norm_topk_prob": true,
                "mlp_only_layers": keys.layers_without("ffn_gate_inp.weight")?,
            }))
        },
        ..GgufFamily::new("qwen3moe")
    }),
    absent: || {
        json!({
            "max_position_embeddings": 32_768, "num_key_value_heads": 4, "sliding_window": 4096,
            "decoder_sparse_step": 1, "moe_intermediate_size": 768, "num_experts_per_tok": 8
        })
    },
    blocks: |fields| {
        let windows = match flag(fields, "use_sliding_window")? {
            true => windows::everywhere(fields)?,
            false => None,
        };
        Ok(Blocks {
            qkv_bias: flag(fields, "attention_bias")?,
            output_bias: flag(fields, "attention_bias")?,
            qk_norm: true,
            windows,
            experts: experts(fields)?,
            activation: Activation::read(fields, "hidden_act")?,
            ..Blocks::default()
        })
    },
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
    renamed: &[],
    left_out: &[],
};

/// Every `decoder_sparse_step`-th layer has experts, but for those that are named.
fn experts(fields: &Fields<'_>) -> Result<Option<Experts>, ModelError> {
    // What transformers calls its field since version 5.
    let name = match fields.has("num_local_experts") && !fields.has("num_experts") {
        true => "num_local_experts",
        false => "num_experts",
    };
    let n_layers = windows::n_layers(fields)?;
    let step = fields.size("decoder_sparse_step", MAX_SIZE)?;
    let dense = fields.optional::<Vec<usize>>("mlp_only_layers")?;
    let dense = dense.unwrap_or_default();
    let has_experts = |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    let d_ff = fields.size("moe_intermediate_size", MAX_SIZE)?;
    let experts = Experts {
        is_normed: flag(fields, "norm_topk_prob")?,
        dense_layers: (0..n_layers).filter(|layer| !has_experts(*layer)).collect(),
        ..Experts::read(fields, name, d_ff)?
    };
    Ok((experts.dense_layers.len() < n_layers).then_some(experts))
}
