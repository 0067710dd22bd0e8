use quest_burn::attention::Temperature;
use serde_json::json;

use super::{
    family::{Family, flag},
    windows,
};
use crate::{
    config::{
        Activation, Blocks, Experts, Routing, Windows,
        fields::{Fields, MAX_SIZE},
    },
    error::ModelError,
};

/// The part for text of models that see is in their `text_config`.
pub(super) const FAMILY: Family = Family {
    classes: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
    model_types: &["llama4_text", "llama4"],
    gguf: None,
    absent: || {
        json!({
            "vocab_size": 202_048, "hidden_size": 5120, "intermediate_size": 8192,
            "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
            "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "num_experts_per_tok": 1,
            "num_local_experts": 16, "interleave_moe_layer_step": 1, "use_qk_norm": true,
            "no_rope_layer_interval": 4, "attention_chunk_size": 8192,
            "attn_temperature_tuning": true, "floor_scale": 8192, "attn_scale": 0.1,
            "bos_token_id": 1, "eos_token_id": 2
        })
    },
    blocks,
    d_ff: "intermediate_size_mlp",
    is_rotated_in_part: false,
    renamed: &[
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
        ("language_model.lm_head.", "lm_head."),
        (".feed_forward.", ".mlp."),
        (".router.", ".gate."),
    ],
    left_out: &[
        "vision_model.",
        "multi_modal_projector.",
        "model.vision_model.",
        "model.multi_modal_projector.",
    ],
};

fn blocks(fields: &Fields<'_>) -> Result<Blocks, ModelError> {
    if fields.has("quantization_config") {
        let (found, supported) = ("of experts in one tensor", "weights in f32, f16 or bf16");
        return Err(fields.unsupported("quantization", found, supported));
    }
    let rotated = rotated_layers(fields)?;
    let unrotated = (0..rotated.len()).filter(|layer| !rotated[*layer]);
    let temperature = match flag(fields, "attn_temperature_tuning")? {
        true => Some(Temperature {
            floor: fields.size("floor_scale", MAX_SIZE)?,
            scale: fields.required("attn_scale")?,
        }),
        false => None,
    };
    let bias = flag(fields, "attention_bias")?;
    let has_norms = flag(fields, "use_qk_norm")?;
    Ok(Blocks {
        qkv_bias: bias,
        output_bias: bias,
        qk_norm: has_norms,
        plain_qk_norm: has_norms,
        neighbours_rotated: true,
        unrotated_layers: unrotated.collect(),
        temperature,
        windows: chunks(fields, &rotated)?,
        experts: experts(fields)?,
        activation: Activation::read(fields, "hidden_act")?,
        ..Blocks::default()
    })
}

/// Whether a layer has a rotary embedding: those that are named, or all but every n-th.
fn rotated_layers(fields: &Fields<'_>) -> Result<Vec<bool>, ModelError> {
    const NAME: &str = "no_rope_layers";
    let n_layers = windows::n_layers(fields)?;
    let named = fields.optional::<Vec<u8>>(NAME)?.unwrap_or_default();
    match named.len() {
        0 => {
            let n = fields.size("no_rope_layer_interval", MAX_SIZE)?;
            Ok((1..=n_layers)
                .map(|layer| !layer.is_multiple_of(n))
                .collect())
        }
        found if found != n_layers => {
            let problem = format!("expected {n_layers}, one for each layer, found {found}");
            Err(fields.invalid(NAME, problem))
        }
        _ => Ok(named.into_iter().map(|rotated| rotated != 0).collect()),
    }
}

/// Layers that attend within chunks: those with a rotary embedding, or those that are named.
fn chunks(fields: &Fields<'_>, rotated: &[bool]) -> Result<Option<Windows>, ModelError> {
    const TYPES: &str = "layer_types";
    let Some(tokens) = fields.optional_size("attention_chunk_size", MAX_SIZE)? else {
        return Ok(None);
    };
    let layers = match fields.optional::<Vec<String>>(TYPES)? {
        None => rotated.to_vec(),
        Some(types) if types.len() == rotated.len() => {
            let is_chunked = |kind: String| match kind.as_str() {
                "chunked_attention" => Ok(true),
                "full_attention" => Ok(false),
                _ => Err(fields.unsupported(
                    "type of layer",
                    kind,
                    "full_attention, chunked_attention",
                )),
            };
            types
                .into_iter()
                .map(is_chunked)
                .collect::<Result<_, _>>()?
        }
        Some(types) => {
            let (expected, found) = (rotated.len(), types.len());
            let problem = format!("expected {expected}, one for each layer, found {found}");
            return Err(fields.invalid(TYPES, problem));
        }
    };
    Ok(Some(Windows {
        tokens,
        are_chunks: true,
        layers,
        rope: None,
    }))
}

/// Every `interleave_moe_layer_step`-th layer has experts, or those that are named.
fn experts(fields: &Fields<'_>) -> Result<Option<Experts>, ModelError> {
    let n_layers = windows::n_layers(fields)?;
    let step = fields.size("interleave_moe_layer_step", MAX_SIZE)?;
    let named = fields.optional::<Vec<usize>>("moe_layers")?;
    let has_experts = |layer: usize| match &named {
        Some(layers) => layers.contains(&layer),
        None => (layer + 1).is_multiple_of(step),
    };
    let d_ff = fields.size("intermediate_size", MAX_SIZE)?;
    let experts = Experts {
        routing: Routing::SigmoidOfInputs,
        shared_d_ff: Some(d_ff),
        dense_layers: (0..n_layers).filter(|layer| !has_experts(*layer)).collect(),
        ..Experts::read(fields, "num_local_experts", d_ff)?
    };
    Ok((experts.dense_layers.len() < n_layers).then_some(experts))
}
