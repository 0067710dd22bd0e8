use serde_json::{Value, json};

use super::{
    family::{Family, GgufFamily},
    gemma2,
};
use crate::{
    config::{Blocks, fields::Fields},
    error::ModelError,
    gguf::Keys,
};

/// The part for text of models that see is in their `text_config`.
pub(super) const FAMILY: Family = Family {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    model_types: &["gemma3_text", "gemma3"],
    gguf: Some(GgufFamily {
        parts: gemma2::GGUF_PARTS,
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
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
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
    Ok(Blocks {
        qk_norm: true,
        ..gemma2::blocks(fields)?
    })
}

/// Layers of the model of 27 billion parameters.
const LAYERS_27B: usize = 62;

fn gguf_fields(keys: &Keys<'_>) -> Result<Value, ModelError> {
    let mut fields = gemma2::gguf_fields(keys, 6, LAYERS_27B)?;
    let local_theta = keys.number("rope.freq_base_swa")?;
    fields["rope_local_base_freq"] = json!(local_theta.unwrap_or(1e4));
    Ok(fields)
}
