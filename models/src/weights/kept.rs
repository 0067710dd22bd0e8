//! What of a checkpoint stays as it is stored on a device.

use burn::tensor::{DType, Device};
use quest_burn_linear::{LinearWeight, blocks::BlockFormat};

use super::names;
use crate::{
    config::{ModelConfig, parameters::is_projection},
    error::ModelError,
    source::{CheckpointSource, SourceTensor, TensorData},
};

/// The form of weights that stay as a checkpoint has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptForm {
    /// In blocks of a GGUF file.
    Blocks(BlockFormat),
    /// In f16 or bf16.
    Half(DType),
}

impl KeptForm {
    /// The name of the format or of the element type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks(format) => format.name(),
            Self::Half(dtype) => dtype.name(),
        }
    }
}

/// The weights of a checkpoint that stay as they are stored on a device: in blocks, or on CPUs in f16 and bf16
/// whatever the element type that is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptWeights {
    /// The form of most of them but the embedding.
    pub form: KeptForm,
    /// Weights of all forms.
    pub weights: u64,
    /// Bytes of them on the device.
    pub bytes: u64,
    /// The element type of the embedding, where it is among them.
    pub embedding: Option<DType>,
    /// Whether the bytes are also those of the projection to logits that the embedding is as well, in blocks.
    pub has_tied_head: bool,
}

impl KeptWeights {
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
        let mut forms = Vec::<(KeptForm, u64)>::new();
        let (mut all, mut bytes) = (0u64, 0u64);
        let (mut embedding, mut has_tied_head) = (None, false);
        let keeps_halves = keeps_halves(config, device);
        let tensors = names::of_model(source.tensors()?, config);
        let is_tied = !tensors.iter().any(|tensor| tensor.name == LM_HEAD);
        for tensor in tensors {
            if is_tied && let Some(kept) = kept_head(&tensor, device) {
                // Besides the embedding in an element type, which tokens are looked up in.
                bytes = bytes.saturating_add(kept);
                has_tied_head = true;
            }
            // A stored projection to logits that is to be the embedding repeats it, and is left out.
            let is_counted = !(config.tie_word_embeddings && tensor.name == LM_HEAD);
            let half = kept_half(&tensor).filter(|_| keeps_halves && is_counted);
            let (form, dims, kept) = match (half, kept(&tensor, device)) {
                (Some((dtype, dims)), _) => {
                    let bytes = n_weights(dims).saturating_mul(dtype.size() as u64);
                    (KeptForm::Half(dtype), dims, bytes)
                }
                (None, Some((format, dims, bytes))) => (KeptForm::Blocks(format), dims, bytes),
                (None, None) => continue,
            };
            let weights = n_weights(dims);
            all = all.saturating_add(weights);
            bytes = bytes.saturating_add(kept);
            if tensor.name == EMBEDDING {
                embedding = half.map(|(dtype, _)| dtype);
                continue;
            }
            match forms.iter_mut().find(|(known, _)| *known == form) {
                Some((_, sum)) => *sum = sum.saturating_add(weights),
                None => forms.push((form, weights)),
            }
        }
        let most = forms.iter().max_by_key(|(_, weights)| *weights);
        let form = (most.map(|(form, _)| *form)).or(embedding.map(KeptForm::Half));
        Ok(form.map(|form| Self {
            form,
            weights: all,
            bytes,
            embedding,
            has_tied_head,
        }))
    }

    /// Bytes of a model's weights, given those of one with all of them in `dtype`.
    pub fn weight_bytes(&self, without: u64, dtype: DType) -> u64 {
        let widened = self.weights.saturating_mul(dtype.size() as u64);
        without.saturating_sub(widened).saturating_add(self.bytes)
    }
}

fn n_weights(dims: [usize; 2]) -> u64 {
    (dims[0] as u64).saturating_mul(dims[1] as u64)
}

/// The projection to logits. GPUs widen all of a packed weight for the rows of a prompt, and this is the
/// largest one of a model: there it is widened once and for all.
const LM_HEAD: &str = "lm_head.weight";

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Whether a device keeps the halves of a checkpoint of a configuration, if they are stored so. Those of checkpoints
/// whose projections are packed, their embedding and projection to logits, are cast.
pub(super) fn keeps_halves(config: &ModelConfig, device: &Device) -> bool {
    config.quantization.is_none() && LinearWeight::keeps_halves(device)
}

/// Element type and shape of a matrix in f16 or bf16 that stays so where the device [keeps](keeps_halves) those.
pub(super) fn kept_half(tensor: &SourceTensor) -> Option<(DType, [usize; 2])> {
    let &[d_output, d_input] = &tensor.shape[..] else {
        return None;
    };
    let is_kept = is_projection(&tensor.name) || [LM_HEAD, EMBEDDING].contains(&&*tensor.name);
    let dtype = tensor.half().filter(|_| is_kept)?;
    Some((dtype, [d_output, d_input]))
}

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
pub(super) fn kept_head(embedding: &SourceTensor, device: &Device) -> Option<u64> {
    let (TensorData::Blocks(blocks), &[d_output, d_input]) =
        (&embedding.data, &embedding.shape[..])
    else {
        return None;
    };
    let is_kept = embedding.name == EMBEDDING && is_host(device);
    is_kept.then_some(())?;
    LinearWeight::kept_bytes(blocks.format, [d_output, d_input], device)
}

/// Whether a projection stays in blocks.
pub(super) fn is_kept(tensor: &SourceTensor, device: &Device) -> bool {
    kept(tensor, device).is_some()
}
