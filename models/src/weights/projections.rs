//! Layers of which the projections' weights are made otherwise than as parameters.

use burn::nn::Linear;
use quest_burn::inference::InferenceAttention;
use quest_burn_linear::InferenceLinear;

use crate::{
    error::ModelError,
    inference::{InferenceFeedForward, InferenceLayer, InferenceMlp, LayerNorms},
    model::DecoderLayer,
};

/// The projections of a layer by their names in it; those of experts are none of them.
pub fn projections(layer: &DecoderLayer) -> Vec<(&'static str, &Linear)> {
    let attention = &layer.self_attn;
    let mut all = vec![
        ("self_attn.q_proj", &attention.q_proj),
        ("self_attn.k_proj", &attention.k_proj),
        ("self_attn.v_proj", &attention.v_proj),
        ("self_attn.o_proj", &attention.o_proj),
    ];
    if let Some(mlp) = layer.mlp.gated() {
        all.extend([
            ("mlp.gate_proj", &mlp.gate_proj),
            ("mlp.up_proj", &mlp.up_proj),
            ("mlp.down_proj", &mlp.down_proj),
        ]);
    }
    all
}

/// Those of some names.
pub fn named<'a>(layer: &'a DecoderLayer, names: &[&str]) -> Vec<(&'static str, &'a Linear)> {
    let all = projections(layer).into_iter();
    all.filter(|(name, _)| names.contains(name)).collect()
}

/// A layer in the form for inference, with `projection` for each run of projections that are merged.
pub fn layer_with(
    layer: DecoderLayer,
    mut projection: impl FnMut(&DecoderLayer, &[&str]) -> Result<InferenceLinear, ModelError>,
) -> Result<InferenceLayer, ModelError> {
    let qkv = projection(
        &layer,
        &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    )?;
    let output = projection(&layer, &["self_attn.o_proj"])?;
    let mlp = match layer.mlp.gated().map(|mlp| mlp.activation) {
        Some(activation) => {
            let gate_up = projection(&layer, &["mlp.gate_proj", "mlp.up_proj"])?;
            let down = projection(&layer, &["mlp.down_proj"])?;
            InferenceFeedForward::Gated(InferenceMlp::from_parts(gate_up, down, activation))
        }
        None => layer.mlp.clone().into(),
    };
    let norms = LayerNorms::of(&layer);
    let attention = InferenceAttention::with_projections(layer.self_attn, qkv, output);
    Ok(InferenceLayer::from_parts(norms, attention, mlp))
}
