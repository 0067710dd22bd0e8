use serde_json::{Value, json};

use super::{
    family::{Family, GgufFamily, flag},
    windows,
};
use crate::{
    config::{Activation, Blocks, fields::Fields, fields::MAX_SIZE},
    error::ModelError,
    gguf::Keys,
};

/// The part for text of models that see is in their `text_config`.
pub const FAMILY: Family = Family {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    model_types: &["gemma3_text", "gemma3"],
    gguf: Some(GgufFamily {
        parts: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
        fields: gguf_fields,
        ..GgufFamily::new("gemma3")
    }),
    absent: || {
        json!({
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "max_position_embeddings": 131_072, "rope_theta": 1e6,
            "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "sliding_window_pattern": 6, "tie_word_embeddings": true,
            "hidden_activation": "gelu_pytorch_tanh", "bos_token_id": 2, "eos_token_id": 1
        })
    },
    blocks,
    renamed: &[
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ],
    left_out: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
};

fn blocks(fields: &Fields<'_>) -> Result<Blocks, ModelError> {
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if fields.has(name) {
            return Err(fields.unsupported("soft cap", name, "none"));
        }
    }
    if flag(fields, "use_bidirectional_attention")? {
        let name = "use_bidirectional_attention";
        return Err(fields.unsupported("attention", name, "causal"));
    }
    const SCALE: &str = "query_pre_attn_scalar";
    let scalar = fields.required::<f64>(SCALE)?;
    if !(scalar > 0.0 && scalar.is_finite()) {
        let problem = format!("expected a number above 0, found {scalar}");
        return Err(fields.invalid(SCALE, problem));
    }
    let d_model = fields.size("hidden_size", MAX_SIZE)?;
    Ok(Blocks {
        qkv_bias: flag(fields, "attention_bias")?,
        output_bias: flag(fields, "attention_bias")?,
        qk_norm: true,
        output_norms: true,
        norms_less_one: true,
        activation: Activation::read(fields, "hidden_activation")?,
        embedding_scale: Some((d_model as f64).sqrt()),
        attention_scale: Some(scalar.powf(-0.5)),
        windows: windows::but_every(fields, "sliding_window_pattern")?,
        ..Blocks::default()
    })
}

/// What the files leave out is what llama.cpp knows of the models of this architecture.
fn gguf_fields(keys: &Keys<'_>) -> Result<Value, ModelError> {
    const LARGEST: usize = 62;
    let (n_heads, n_layers) = (keys.n_heads()?, keys.required("block_count")?);
    let scalar = match n_layers {
        LARGEST => keys.required("embedding_length")? / n_heads,
        _ => keys.head_dim()?,
    };
    let local_theta = keys.number("rope.freq_base_swa")?;
    Ok(json!({
        "hidden_act": null,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": keys.number("final_logit_softcapping")?,
        "rope_local_base_freq": local_theta.unwrap_or(1e4),
        "sliding_window": keys.window()?,
        "layer_types": keys.layer_types(6)?,
    }))
}
