use quest_burn_linear::blocks::BlockFormat;
use serde_json::{Map, Value as Json, json};

use super::{GgufCheckpoint, Keys, names::ROPE_FACTORS};
use crate::error::ModelError;

/// What LongRoPE stretches wavelengths by in long texts, and not in short ones.
const LONG_FACTORS: &str = "rope_factors_long.weight";

/// The fields of a `config.json` about the rotary embedding.
pub(super) fn fields(
    checkpoint: &GgufCheckpoint,
    keys: &Keys<'_>,
    head_dim: usize,
) -> Result<Map<String, Json>, ModelError> {
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut fields = Map::from_iter([("rope_theta".to_owned(), json!(theta))]);
    if let Some(scaling) = scaling(keys)? {
        fields.insert("rope_scaling".into(), scaling);
    }
    if checkpoint.has(LONG_FACTORS) {
        return Err(checkpoint.metadata().unsupported(
            "RoPE",
            format!("factors of long texts (`{LONG_FACTORS}`)"),
            "factors for all lengths",
        ));
    }
    if let Some(factors) = factors(checkpoint, head_dim)? {
        if fields.contains_key("rope_scaling") {
            return Err(checkpoint.metadata().unsupported(
                "RoPE",
                format!("scaling beside `{ROPE_FACTORS}`"),
                "either of them",
            ));
        }
        // The same factors whatever the length, and no factor of the attention.
        fields.insert(
            "rope_scaling".into(),
            json!({
                "rope_type": "longrope", "attention_factor": 1.0,
                "short_factor": factors, "long_factor": factors,
                "original_max_position_embeddings": keys.required("context_length")?,
            }),
        );
    }
    Ok(fields)
}

/// `rope_scaling` where positions are stretched.
fn scaling(keys: &Keys<'_>) -> Result<Option<Json>, ModelError> {
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    let kind = keys.text("rope.scaling.type")?;
    let original = keys.size("rope.scaling.original_context_length")?;
    Ok(match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => None,
        (None | Some("linear"), Some(1.0)) => None,
        (None | Some("linear"), Some(factor)) => {
            Some(json!({ "rope_type": "linear", "factor": factor }))
        }
        // Any other kind is refused by its name where folders are read.
        (Some(kind), factor) => {
            let mut scaling = Map::from_iter([("rope_type".to_owned(), json!(kind))]);
            let numbers = [
                ("factor", factor),
                ("beta_fast", keys.number("rope.scaling.yarn_beta_fast")?),
                ("beta_slow", keys.number("rope.scaling.yarn_beta_slow")?),
            ];
            for (name, number) in numbers {
                if let Some(number) = number {
                    scaling.insert(name.into(), json!(number));
                }
            }
            if let Some(original) = original {
                scaling.insert("original_max_position_embeddings".into(), json!(original));
            }
            let attention = keys.number("rope.scaling.attn_factor")?;
            if let (Some(attention), Some(factor)) = (attention, factor) {
                // llama.cpp multiplies what follows from the factor by it.
                let usual = 0.1 * factor.ln() + 1.0;
                scaling.insert("attention_factor".into(), json!(attention * usual));
            }
            Some(Json::Object(scaling))
        }
    })
}

/// By what the wavelengths of a head's pairs of channels are stretched, as Llama 3.1 has them.
fn factors(checkpoint: &GgufCheckpoint, head_dim: usize) -> Result<Option<Vec<f64>>, ModelError> {
    let Some((file, tensor)) = checkpoint.tensor(ROPE_FACTORS) else {
        return Ok(None);
    };
    let garbled = |problem: String| ModelError::garbled(file.handle().path(), super::NAME, problem);
    if tensor.shape != [head_dim / 2] || tensor.format != BlockFormat::F32 {
        let expected = head_dim / 2;
        return Err(garbled(format!(
            "expected tensor `{ROPE_FACTORS}` of {expected} values in F32, found {:?} in {}",
            tensor.shape, tensor.format
        )));
    }
    let bytes = file.handle().read(tensor)?;
    let (values, _) = bytes.as_chunks::<4>();
    let factors = values
        .iter()
        .map(|value| f64::from(f32::from_le_bytes(*value)));
    let factors = factors.collect::<Vec<_>>();
    match factors.iter().all(|factor| *factor == 1.0) {
        true => Ok(None),
        false => Ok(Some(factors)),
    }
}
