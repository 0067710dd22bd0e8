//! Names that tensors have in some checkpoints, and tensors that the model has no use for.

use super::rows;
use crate::{config::ModelConfig, source::SourceTensor};

/// What wrappers put before every name: compiled modules, and modules that are trained in parallel.
const WRAPPERS: [&str; 2] = ["_orig_mod.", "module."];

/// What the names of the decoder begin with; models saved without their output projection leave it out.
const DECODER: &str = "model.";

/// Frequencies that older versions of transformers saved; they follow from the configuration.
const FREQUENCIES: &str = ".rotary_emb.inv_freq";

/// Scales of calibrated KV caches in 8 bits.
const CACHE_SCALES: [&str; 5] = [
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".kv_scale",
    ".prob_output_scale",
];

/// The tensors of the model by its own names. Tensors that follow from others, those of an 8-bit KV cache
/// and those that no text needs are left out.
pub(super) fn of_model(mut tensors: Vec<SourceTensor>, config: &ModelConfig) -> Vec<SourceTensor> {
    for wrapper in WRAPPERS {
        if !tensors.is_empty() && tensors.iter().all(|t| t.name.starts_with(wrapper)) {
            for tensor in &mut tensors {
                tensor.name.drain(..wrapper.len());
            }
        }
    }
    let family = config.architecture.family();
    let is_left_out = |name: &str| family.left_out.iter().any(|start| name.starts_with(start));
    tensors.retain(|tensor| !is_left_out(&tensor.name));
    for tensor in &mut tensors {
        for (found, known) in family.renamed {
            tensor.name = tensor.name.replacen(found, known, 1);
        }
    }
    tensors.retain(|tensor| !tensor.name.ends_with(FREQUENCIES));
    let all = tensors.len();
    tensors.retain(|tensor| !is_cache_scale(&tensor.name));
    if tensors.len() < all {
        log::info!(
            "{} scales of an 8-bit KV cache are left out: the cache is not quantised",
            all - tensors.len()
        );
    }
    if !tensors
        .iter()
        .any(|tensor| tensor.name.starts_with(DECODER))
    {
        for tensor in &mut tensors {
            let is_inside = ["embed_tokens.", "layers.", "norm."];
            if is_inside.iter().any(|start| tensor.name.starts_with(start)) {
                tensor.name.insert_str(0, DECODER);
            }
        }
    }
    rows::of_model(tensors, config)
}

fn is_cache_scale(name: &str) -> bool {
    name.contains("self_attn.") && CACHE_SCALES.iter().any(|end| name.ends_with(end))
}
