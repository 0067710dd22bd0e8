//! Layers of which the projections' weights are made otherwise than as parameters.

use burn::nn::Linear;
use quest_burn::inference::InferenceAttention;
use quest_burn_linear::InferenceLinear;

use crate::{
    error::ModelError,
    inference::{InferenceExperts, InferenceFeedForward, InferenceLayer, InferenceMlp, LayerNorms},
    model::{DecoderLayer, FeedForward, Mlp},
};

/// A projection by its name in a layer.
pub(super) type Named<'a> = (String, &'a Linear);

/// The projections of a layer.
pub(super) fn projections(layer: &DecoderLayer) -> Vec<Named<'_>> {
    let mut all = queries_keys_values(layer).to_vec();
    all.push(output(layer));
    let mut add = |prefix: String, mlp| {
        all.extend(gate_up(&prefix, mlp));
        all.push(down(&prefix, mlp));
    };
    match &layer.mlp {
        FeedForward::Gated(mlp) => add(MLP.into(), mlp),
        FeedForward::Experts(block) => {
            let experts = block.experts.iter().enumerate();
            experts.for_each(|(expert, mlp)| add(expert_name(expert), mlp));
            if let Some(mlp) = &block.shared_expert {
                add(SHARED.into(), mlp);
            }
        }
    }
    all
}

const MLP: &str = "mlp";
const SHARED: &str = "mlp.shared_expert";

fn expert_name(expert: usize) -> String {
    format!("{MLP}.experts.{expert}")
}

fn queries_keys_values(layer: &DecoderLayer) -> [Named<'_>; 3] {
    let attention = &layer.self_attn;
    [
        ("self_attn.q_proj".into(), &attention.q_proj),
        ("self_attn.k_proj".into(), &attention.k_proj),
        ("self_attn.v_proj".into(), &attention.v_proj),
    ]
}

fn output(layer: &DecoderLayer) -> Named<'_> {
    ("self_attn.o_proj".into(), &layer.self_attn.o_proj)
}

fn gate_up<'a>(prefix: &str, mlp: &'a Mlp) -> [Named<'a>; 2] {
    [
        (format!("{prefix}.gate_proj"), &mlp.gate_proj),
        (format!("{prefix}.up_proj"), &mlp.up_proj),
    ]
}

fn down<'a>(prefix: &str, mlp: &'a Mlp) -> Named<'a> {
    (format!("{prefix}.down_proj"), &mlp.down_proj)
}

/// A layer in the form for inference, with `projection` for each run of projections that are merged.
pub(super) fn layer_with(
    layer: DecoderLayer,
    mut projection: impl FnMut(&[Named<'_>]) -> Result<InferenceLinear, ModelError>,
) -> Result<InferenceLayer, ModelError> {
    let qkv = projection(&queries_keys_values(&layer))?;
    let output = projection(&[output(&layer)])?;
    let mut block = |prefix: &str, mlp: &Mlp| {
        let gate_up = projection(&gate_up(prefix, mlp))?;
        let down = projection(&[down(prefix, mlp)])?;
        Ok::<_, ModelError>(InferenceMlp::from_parts(gate_up, down, mlp.activation))
    };
    let mlp = match &layer.mlp {
        FeedForward::Gated(mlp) => InferenceFeedForward::Gated(block(MLP, mlp)?),
        FeedForward::Experts(sparse) => {
            let experts = sparse.experts.iter().enumerate();
            let experts = experts.map(|(expert, mlp)| block(&expert_name(expert), mlp));
            let experts = experts.collect::<Result<_, _>>()?;
            let shared = sparse.shared_expert.as_ref();
            let shared = shared.map(|mlp| block(SHARED, mlp)).transpose()?;
            InferenceFeedForward::Experts(InferenceExperts::from_parts(sparse, experts, shared))
        }
    };
    let norms = LayerNorms::of(&layer);
    let attention = InferenceAttention::with_projections(layer.self_attn, qkv, output);
    Ok(InferenceLayer::from_parts(norms, attention, mlp))
}
