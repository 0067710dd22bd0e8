//! Weights of a checkpoint, applied through [`burn::store`].
//!
//! 1. The files are found by the [`source`]: safetensors before PyTorch, one file before
//!    several with an index; GGUF.
//! 2. Names and shapes are read, which touches no weights, and compared with those that the
//!    configuration asks for; every difference is reported at once.
//! 3. Tensors are read one by one, cast and moved to the device. Of the model there is one copy,
//!    beside the one tensor in hand; safetensors files are mapped rather than read, so what of them
//!    is in memory is page cache that the system takes back when it needs it. Blocks of GGUF files are
//!    widened as they are read; projections, on CPUs that to logits too, stay in them where the device
//!    multiplies blocks
//!    ([`WeightFormat::Stored`]). So do matrices in f16 and bf16 on CPUs, whatever is computed in.
//! 4. Projections of GPTQ and AWQ checkpoints keep their bits; their words are put in order on the host.

mod blocks;
mod cast;
mod checkpoint;
mod kept;
mod loader;
mod names;
mod projections;
mod quantized;
mod rows;

use std::path::Path;

use burn::tensor::{DType, Device};
use quest_burn::inference::WeightFormat;

use crate::{
    config::ModelConfig,
    error::ModelError,
    inference::InferenceLm,
    model::CausalLm,
    source::{self, CheckpointSource},
};
pub use kept::{KeptForm, KeptWeights};
use loader::Loader;

/// What the name of the projection to logits begins with.
const LM_HEAD: &str = "lm_head.";

/// How far [`load`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Tensors that are on the device.
    pub tensors: usize,
    /// Tensors of the model.
    pub total_tensors: usize,
    /// Bytes of the checkpoint that have been read.
    pub bytes: u64,
    /// Bytes that the model's tensors take in the checkpoint.
    pub total_bytes: u64,
}

/// Loads the weights of a checkpoint into a model of the given configuration.
///
/// `path` is a folder or a GGUF file. Weights in f64, f32, f16 and bf16 are cast to `dtype`. `progress` is told once at the start and
/// after every part of the model (a layer, an embedding).
///
/// # Errors
///
/// When there are no weights, when a file is absent, truncated or garbled, when the tensors are
/// not those of the configuration (every missing, unexpected and misshapen one is listed), when
/// they are quantised, and when the device does not compute in `dtype`.
pub fn load(
    path: &Path,
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<CausalLm, ModelError> {
    check_dtype(device, dtype)?;
    load_from(&*source::open(path)?, config, device, dtype, progress)
}

/// As [`load`], from a checkpoint that is open.
///
/// # Errors
///
/// As [`load`].
pub fn load_from(
    source: &dyn CheckpointSource,
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<CausalLm, ModelError> {
    if let Some(quantization) = config.quantization {
        return Err(ModelError::Quantized {
            dir: source.path().into(),
            what: "train or convert them",
            bits: quantization.bits,
        });
    }
    let mut loader = Loader::new(source, config, device, dtype, progress)?;

    // Parameters are initialised when they are first used: until then they take no memory, and
    // those that are replaced never do.
    let model = loader.config.init(device);
    Ok(CausalLm {
        embed_tokens: loader.fill(model.embed_tokens, "model.embed_tokens.")?,
        layers: model
            .layers
            .into_iter()
            .enumerate()
            .map(|(index, layer)| loader.fill(layer, &format!("model.layers.{index}.")))
            .collect::<Result<_, _>>()?,
        norm: loader.fill(model.norm, "model.norm.")?,
        lm_head: model
            .lm_head
            .map(|lm_head| loader.fill(lm_head, LM_HEAD))
            .transpose()?,
        embedding_scale: model.embedding_scale,
        logit_soft_cap: model.logit_soft_cap,
    })
}

/// Loads the weights of a checkpoint, a folder or a GGUF file, into a model for inference, with the weights of its layers'
/// projections in the given form. They take that form layer by layer, as they are read. [`WeightFormat::Stored`]
/// keeps blocks and, on CPUs, f16 and bf16; `dtype` is what is computed in. Those of GPTQ
/// and AWQ checkpoints keep the bits that they have; [`WeightFormat::Stored`] and
/// [`WeightFormat::Full`] ask for nothing else.
///
/// # Errors
///
/// As [`load`], when the form does not fit a layer or is another than that of quantised weights, and
/// when GPTQ has ordered the inputs of a projection by their activations (`desc_act`).
pub fn load_for_inference(
    path: &Path,
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
    format: WeightFormat,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<InferenceLm, ModelError> {
    check_dtype(device, dtype)?;
    let source = source::open(path)?;
    load_for_inference_from(&*source, config, device, dtype, format, progress)
}

/// As [`load_for_inference`], from a checkpoint that is open.
///
/// # Errors
///
/// As [`load_for_inference`].
pub fn load_for_inference_from(
    source: &dyn CheckpointSource,
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
    format: WeightFormat,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<InferenceLm, ModelError> {
    // Refused now rather than once weights are there.
    config.weight_bytes(dtype, format)?;
    let mut loader = Loader::new(source, config, device, dtype, progress)?;
    loader.keeps_halves = format == WeightFormat::Stored && kept::keeps_halves(config, device);
    let model = loader.config.init(device);
    let tied_head = match (format, &model.lm_head) {
        (WeightFormat::Stored, None) => loader.tied_head(device)?,
        _ => None,
    };
    let embed_tokens = loader.fill(model.embed_tokens, "model.embed_tokens.")?;
    let norm = loader.fill(model.norm, "model.norm.")?;
    let lm_head = model.lm_head;
    let layers = model.layers.into_iter().enumerate();
    let layers = layers.map(|(index, layer)| (layer, format!("model.layers.{index}.")));
    let lm = match config.quantization {
        Some(quantization) if format.quantization().is_some() => {
            return Err(ModelError::Quantized {
                dir: source.path().into(),
                what: "round them",
                bits: quantization.bits,
            });
        }
        Some(quantization) => {
            let lm_head = loader.fill_head(lm_head)?.map(Into::into);
            let layers = layers
                .map(|(layer, prefix)| loader.fill_packed(layer, &prefix, quantization, device))
                .collect::<Result<_, _>>()?;
            InferenceLm::from_parts(embed_tokens, layers, norm, lm_head)
        }
        None if format == WeightFormat::Stored => {
            let lm_head = lm_head
                .map(|lm_head| loader.fill_stored_head(lm_head, device))
                .transpose()?;
            let layers = layers
                .map(|(layer, prefix)| loader.fill_stored(layer, &prefix, device))
                .collect::<Result<_, _>>()?;
            InferenceLm::from_parts(embed_tokens, layers, norm, lm_head.or(tied_head))
        }
        None => {
            let lm_head = loader.fill_head(lm_head)?;
            let layers = layers.map(|(layer, prefix)| loader.fill(layer, &prefix));
            InferenceLm::from_layers(embed_tokens, layers, norm, lm_head, format)?
        }
    };
    Ok(lm
        .with_embedding_scale(model.embedding_scale)
        .with_logit_soft_cap(model.logit_soft_cap))
}

fn check_dtype(device: &Device, dtype: DType) -> Result<(), ModelError> {
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(ModelError::DType(dtype));
    }
    if !device.supports_dtype(dtype) {
        return Err(ModelError::DeviceDType(dtype));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
