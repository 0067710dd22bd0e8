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

pub(super) const FAMILY: Family = Family {
    classes: &["Gemma2ForCausalLM"],
    model_types: &["gemma2"],
    gguf: Some(GgufFamily {
        parts: GGUF_PARTS,
        fields: |keys| {
            let mut fields = gguf_fields(keys, 2, LAYERS_27B)?;
            // Those of all models, which old files do not name.
            for (name, cap) in [(ATTENTION_CAP, 50.0), (LOGIT_CAP, 30.0)] {
                if fields[name].is_null() {
                    fields[name] = json!(cap);
                }
            }
            Ok(fields)
        },
        ..GgufFamily::new("gemma2")
    }),
    absent: || {
        json!({
            "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "max_position_embeddings": 8192, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "sliding_window_pattern": 2, "tie_word_embeddings": true,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "hidden_activation": "gelu_pytorch_tanh", "bos_token_id": 2, "eos_token_id": 1
        })
    },
    blocks,
    d_ff: "intermediate_size",
    is_rotated_in_part: false,
    renamed: &[],
    left_out: &[],
};

const ATTENTION_CAP: &str = "attn_logit_softcapping";
const LOGIT_CAP: &str = "final_logit_softcapping";

/// Layers of the model of 27 billion parameters.
const LAYERS_27B: usize = 46;

/// A layer's norms in the files of Gemma 2 and 3.
pub(super) const GGUF_PARTS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

pub(super) fn blocks(fields: &Fields<'_>) -> Result<Blocks, ModelError> {
    if flag(fields, "use_bidirectional_attention")? {
        let name = "use_bidirectional_attention";
        return Err(fields.unsupported("attention", name, "causal"));
    }
    let positive = |name: &str| match fields.optional::<f64>(name)? {
        Some(number) if !(number > 0.0 && number.is_finite()) => {
            let problem = format!("expected a number above 0, found {number}");
            Err(fields.invalid(name, problem))
        }
        number => Ok(number),
    };
    const SCALE: &str = "query_pre_attn_scalar";
    let scalar = positive(SCALE)?.ok_or_else(|| fields.missing(SCALE))?;
    let d_model = fields.size("hidden_size", MAX_SIZE)?;
    Ok(Blocks {
        qkv_bias: flag(fields, "attention_bias")?,
        output_bias: flag(fields, "attention_bias")?,
        output_norms: true,
        norms_less_one: true,
        activation: Activation::read(fields, "hidden_activation")?,
        embedding_scale: Some((d_model as f64).sqrt()),
        attention_scale: Some(scalar.powf(-0.5)),
        attention_soft_cap: positive(ATTENTION_CAP)?,
        logit_soft_cap: positive(LOGIT_CAP)?,
        windows: windows::but_every(fields, "sliding_window_pattern")?,
        ..Blocks::default()
    })
}

/// What the files leave out is what llama.cpp knows of the models of these architectures: windows in all
/// layers but every `period`-th, and another scale of the largest model.
pub(super) fn gguf_fields(
    keys: &Keys<'_>,
    period: usize,
    largest_layers: usize,
) -> Result<Value, ModelError> {
    let scalar = match keys.required("block_count")? == largest_layers {
        true => keys.required("embedding_length")? / keys.n_heads()?,
        false => keys.head_dim()?,
    };
    Ok(json!({
        "hidden_act": null,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        ATTENTION_CAP: keys.number("attn_logit_softcapping")?,
        LOGIT_CAP: keys.number("final_logit_softcapping")?,
        "sliding_window": keys.window()?,
        "layer_types": keys.layer_types(period)?,
    }))
}
