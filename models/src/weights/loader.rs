//! The tensors of a checkpoint, given to the parts of a model one after the other.

use std::collections::HashSet;

use burn::{
    module::Module,
    nn::{Linear, LinearLayout},
    store::{Applier, ModuleAdapter, PyTorchToBurnAdapter, burn_pack},
    tensor::{DType, Device},
};
use quest_burn_linear::InferenceLinear;

use super::{
    LM_HEAD, LoadProgress,
    blocks::{self, BlockTensors},
    cast::Cast,
    check_dtype,
    checkpoint::{Checkpoint, Files, Tensors},
    kept,
    quantized::PackedTensors,
};
use crate::{
    config::{ModelConfig, StoredQuantization},
    error::ModelError,
    inference::InferenceLayer,
    model::{DecoderLayer, LAYOUT},
    source::{CheckpointSource, SourceTensor},
};

/// A checkpoint whose tensors go into a model, and how far that is.
pub(super) struct Loader<'a> {
    checkpoint: Checkpoint,
    /// The configuration that the tensors follow.
    pub(super) config: ModelConfig,
    dtype: DType,
    /// Whether matrices in f16 and bf16 stay so.
    pub(super) keeps_halves: bool,
    done: LoadProgress,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        source: &dyn CheckpointSource,
        config: &ModelConfig,
        device: &Device,
        dtype: DType,
        progress: &'a mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        check_dtype(device, dtype)?;
        let (checkpoint, config) = Checkpoint::open(source, config)?;
        let loader = Self {
            dtype,
            keeps_halves: false,
            done: LoadProgress {
                total_tensors: checkpoint.len(),
                total_bytes: checkpoint.bytes(),
                ..LoadProgress::default()
            },
            checkpoint,
            config,
            progress,
        };
        (loader.progress)(loader.done);
        Ok(loader)
    }

    /// Gives a part of the model its tensors, those whose names begin with `prefix`.
    pub(super) fn fill<M: Module>(&mut self, part: M, prefix: &str) -> Result<M, ModelError> {
        let Tensors {
            tensors,
            files,
            kept,
            ..
        } = self.take(prefix);
        let (part, missing) = self.apply(part, tensors, kept, &files)?;
        assert!(
            missing.is_empty(),
            "the expected tensors are the parameters of the model: {missing:?} are missing"
        );
        (self.progress)(self.done);
        Ok(part)
    }

    /// The same for a layer of which the projections' weights are packed.
    pub(super) fn fill_packed(
        &mut self,
        layer: DecoderLayer,
        prefix: &str,
        quantization: StoredQuantization,
        device: &Device,
    ) -> Result<InferenceLayer, ModelError> {
        let Tensors {
            mut tensors,
            files,
            kept,
            ..
        } = self.take(prefix);
        let dtype = self.dtype;
        let packed = PackedTensors::take(&mut tensors, &layer, files.clone(), quantization, dtype)?;
        let (layer, missing) = self.apply(layer, tensors, kept, &files)?;
        let is_packed = |name: &String| name.ends_with("_proj.weight");
        assert!(
            missing.iter().all(is_packed),
            "the expected tensors are the parameters of the model: {missing:?} are missing"
        );
        let layer = packed.layer(layer, device)?;
        (self.progress)(self.done);
        Ok(layer)
    }

    /// The same for a layer of which the projections stay in blocks where the device keeps them.
    pub(super) fn fill_stored(
        &mut self,
        layer: DecoderLayer,
        prefix: &str,
        device: &Device,
    ) -> Result<InferenceLayer, ModelError> {
        let blocks = self.checkpoint.take_blocks(prefix, device);
        if blocks.is_empty() {
            return Ok(self.fill(layer, prefix)?.into());
        }
        self.done.tensors += blocks.len();
        self.done.bytes += blocks.values().map(SourceTensor::stored_bytes).sum::<u64>();
        let Tensors {
            tensors,
            files,
            kept,
            ..
        } = self.take(prefix);
        let (layer, missing) = self.apply(layer, tensors, kept, &files)?;
        assert!(
            missing.iter().all(|name| blocks.contains_key(name)),
            "the expected tensors are the parameters of the model: {missing:?} are missing"
        );
        let layer = BlockTensors(blocks).layer(layer, device, self.dtype)?;
        (self.progress)(self.done);
        Ok(layer)
    }

    /// The projection to logits that the embedding is as well, where it stays in blocks; the embedding is
    /// still to be taken.
    pub(super) fn tied_head(&self, device: &Device) -> Result<Option<InferenceLinear>, ModelError> {
        match self.checkpoint.get(kept::EMBEDDING) {
            Some(embedding) => blocks::tied_head(embedding, device, self.dtype),
            None => Ok(None),
        }
    }

    /// Gives the projection to logits its tensor.
    pub(super) fn fill_head(
        &mut self,
        lm_head: Option<Linear>,
    ) -> Result<Option<Linear>, ModelError> {
        lm_head
            .map(|lm_head| self.fill(lm_head, LM_HEAD))
            .transpose()
    }

    /// The same of one that stays in blocks where the device keeps them.
    pub(super) fn fill_stored_head(
        &mut self,
        lm_head: Linear,
        device: &Device,
    ) -> Result<InferenceLinear, ModelError> {
        let mut blocks = self.checkpoint.take_blocks(LM_HEAD, device).into_values();
        let Some(tensor) = blocks.next() else {
            return Ok(self.fill(lm_head, LM_HEAD)?.into());
        };
        self.done.tensors += 1;
        self.done.bytes += tensor.stored_bytes();
        let weight = blocks::weight(&tensor, device, self.dtype)?;
        (self.progress)(self.done);
        Ok(InferenceLinear::with_weight(weight, None))
    }

    /// The tensors whose names begin with `prefix`.
    fn take(&mut self, prefix: &str) -> Tensors {
        let taken = self.checkpoint.take(prefix, self.dtype, self.keeps_halves);
        self.done.tensors += taken.tensors.len();
        self.done.bytes += taken.stored_bytes;
        taken
    }

    /// Gives a part of the model some tensors, of which those in `kept` keep their element type; parameters that
    /// there is none for are named.
    fn apply<M: Module>(
        &self,
        part: M,
        tensors: Vec<burn_pack::Tensor>,
        kept: HashSet<String>,
        files: &Files,
    ) -> Result<(M, Vec<String>), ModelError> {
        let cast = Cast::new(self.dtype, kept);
        let adapter: Box<dyn ModuleAdapter> = match LAYOUT {
            // The checkpoint's own layout.
            LinearLayout::Col => Box::new(cast),
            LinearLayout::Row => Box::new(PyTorchToBurnAdapter.chain(cast)),
        };
        let mut applier = Applier::new(tensors, None, Some(adapter), true);
        let part = part.map(&mut applier);
        let result = applier.into_result();
        if let Some(error) = result.errors.first() {
            return Err(files.error(error));
        }
        assert!(
            result.unused.is_empty(),
            "the expected tensors are the parameters of the model: {result}"
        );
        let missing = result.missing.into_iter().map(|(name, _)| name);
        Ok((part, missing.collect()))
    }
}
