//! Projections that stay in the blocks of a GGUF file.

use std::collections::HashMap;

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor},
};
use quest_burn_linear::{InferenceLinear, LinearWeight, blocks::BlockFormat};

use super::{names, projections::layer_with};
use crate::{
    config::{ModelConfig, parameters::is_projection},
    error::ModelError,
    inference::InferenceLayer,
    model::DecoderLayer,
    source::{BlockTensor, CheckpointSource, SourceTensor, TensorData},
};

/// What of a checkpoint stays in blocks on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBlocks {
    /// The format of most of the weights.
    pub format: BlockFormat,
    /// Weights of all formats.
    pub weights: u64,
    /// Bytes of the blocks on the device.
    pub bytes: u64,
    /// Whether the bytes are also those of the projection to logits that the embedding is as well.
    pub has_tied_head: bool,
}

impl KeptBlocks {
    /// Those of a checkpoint, if it has any that the device keeps.
    ///
    /// # Errors
    ///
    /// When the names of the tensors cannot be read.
    pub fn of(
        source: &dyn CheckpointSource,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<Option<Self>, ModelError> {
        let mut formats = Vec::<(BlockFormat, u64)>::new();
        let mut bytes = 0u64;
        let mut has_tied_head = false;
        let tensors = names::of_model(source.tensors()?, config);
        let is_tied = !tensors.iter().any(|tensor| tensor.name == LM_HEAD);
        for tensor in tensors {
            if is_tied && let Some(kept) = kept_head(&tensor, device) {
                // Besides the embedding in an element type, which tokens are looked up in.
                bytes = bytes.saturating_add(kept);
                has_tied_head = true;
            }
            let Some((format, dims, kept)) = kept(&tensor, device) else {
                continue;
            };
            let weights = (dims[0] as u64).saturating_mul(dims[1] as u64);
            match formats.iter_mut().find(|(known, _)| *known == format) {
                Some((_, sum)) => *sum = sum.saturating_add(weights),
                None => formats.push((format, weights)),
            }
            bytes = bytes.saturating_add(kept);
        }
        let most = formats.iter().max_by_key(|(_, weights)| *weights);
        Ok(most.map(|(format, _)| Self {
            format: *format,
            weights: formats.iter().map(|(_, weights)| weights).sum(),
            bytes,
            has_tied_head,
        }))
    }

    /// Bytes of a model's weights, given those of one without blocks in `dtype`.
    pub fn weight_bytes(&self, without: u64, dtype: DType) -> u64 {
        let widened = self.weights.saturating_mul(dtype.size() as u64);
        without.saturating_sub(widened).saturating_add(self.bytes)
    }
}

/// The projection to logits. GPUs widen all of a packed weight for the rows of a prompt, and this is the
/// largest one of a model: there it is widened once and for all.
const LM_HEAD: &str = "lm_head.weight";

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Whether a device multiplies the blocks of every format of integers where they lie, as CPUs do.
fn is_host(device: &Device) -> bool {
    let kept = |format: &BlockFormat| {
        let row = format.weights_per_block();
        !format.is_integers() || LinearWeight::kept_bytes(*format, [1, row], device).is_some()
    };
    BlockFormat::ALL.iter().all(kept)
}

/// Format, shape and bytes on the device of a projection that stays in blocks.
fn kept(tensor: &SourceTensor, device: &Device) -> Option<(BlockFormat, [usize; 2], u64)> {
    let TensorData::Blocks(blocks) = &tensor.data else {
        return None;
    };
    let &[d_output, d_input] = &tensor.shape[..] else {
        return None;
    };
    let dims = [d_output, d_input];
    let bytes = LinearWeight::kept_bytes(blocks.format, dims, device)?;
    let is_kept = is_projection(&tensor.name) || (tensor.name == LM_HEAD && is_host(device));
    is_kept.then_some((blocks.format, dims, bytes))
}

/// Bytes on the device of an embedding that is the projection to logits as well, where that stays in blocks.
fn kept_head(embedding: &SourceTensor, device: &Device) -> Option<u64> {
    let (TensorData::Blocks(blocks), &[d_output, d_input]) =
        (&embedding.data, &embedding.shape[..])
    else {
        return None;
    };
    let is_kept = embedding.name == EMBEDDING && is_host(device);
    is_kept.then_some(())?;
    LinearWeight::kept_bytes(blocks.format, [d_output, d_input], device)
}

/// The projection to logits that an embedding is as well, where that stays in blocks.
pub(super) fn tied_head(
    embedding: &SourceTensor,
    device: &Device,
    dtype: DType,
) -> Result<Option<InferenceLinear>, ModelError> {
    if kept_head(embedding, device).is_none() {
        return Ok(None);
    }
    let weight = weight(embedding, device, dtype)?;
    Ok(Some(InferenceLinear::with_weight(weight, None)))
}

/// Whether a projection stays in blocks.
pub(super) fn is_kept(tensor: &SourceTensor, device: &Device) -> bool {
    kept(tensor, device).is_some()
}

/// The projections of a layer that stay in blocks, by the names of their weights in it.
pub(super) struct BlockTensors(pub HashMap<String, SourceTensor>);

impl BlockTensors {
    /// The layer in the form for inference. Of its parameters those that are not here have been loaded.
    pub(super) fn layer(
        mut self,
        layer: DecoderLayer,
        device: &Device,
        dtype: DType,
    ) -> Result<InferenceLayer, ModelError> {
        layer_with(layer, |merged| {
            let mut weights = Vec::new();
            let mut biases = Vec::new();
            for (name, linear) in merged {
                weights.push(match self.0.remove(&format!("{name}.weight")) {
                    Some(tensor) => weight(&tensor, device, dtype)?,
                    None => InferenceLinear::from((*linear).clone()).into_weight(),
                });
                biases.extend(linear.bias.as_ref().map(Param::val));
            }
            let bias = (!biases.is_empty()).then(|| Tensor::cat(biases, 0));
            let weight = LinearWeight::stack(weights);
            Ok(InferenceLinear::with_weight(weight, bias))
        })
    }
}

/// The weight of a projection that stays in blocks.
pub(super) fn weight(
    tensor: &SourceTensor,
    device: &Device,
    dtype: DType,
) -> Result<LinearWeight, ModelError> {
    let (TensorData::Blocks(blocks), &[d_output, d_input]) = (&tensor.data, &tensor.shape[..])
    else {
        unreachable!("tensors that stay in blocks are matrices of blocks");
    };
    let BlockTensor { format, .. } = *blocks;
    let bytes = blocks.read()?;
    let weight = LinearWeight::from_blocks(format, [d_output, d_input], bytes, dtype, device);
    weight.map_err(|error| tensor.garbled(error.to_string()))
}
