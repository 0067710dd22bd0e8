//! Projections that stay in the blocks of a GGUF file.

use std::collections::HashMap;

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor},
};
use quest_burn_linear::{InferenceLinear, LinearWeight};

use super::{kept::kept_head, projections::layer_with};
use crate::{
    error::ModelError,
    inference::InferenceLayer,
    model::DecoderLayer,
    source::{BlockTensor, SourceTensor, TensorData},
};

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
