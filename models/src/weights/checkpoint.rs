use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use burn::{
    store::{
        ApplyError,
        burn_pack::{Bytes, Error, Tensor},
    },
    tensor::{DType, Device, TensorData},
};

use super::{
    kept::{is_kept, kept_half},
    names,
};
use crate::{
    config::{ModelConfig, parameters},
    error::{MisshapenTensor, ModelError, TensorMismatch},
    source::{CheckpointSource, SourceTensor},
};

const EMBEDDING: &str = "model.embed_tokens.weight";
const LM_HEAD: &str = "lm_head.weight";
const NORM: &str = "norm.weight";

/// The tensors of a checkpoint by name, their bytes not yet read: those of the model, no others.
pub(super) struct Checkpoint {
    tensors: BTreeMap<String, SourceTensor>,
    /// Whether the weights of norms are stored less one.
    norms_less_one: bool,
}

/// Tensors of one part of the model, named as the part names its parameters.
pub(super) struct Tensors {
    pub tensors: Vec<Tensor>,
    pub files: Files,
    /// Names of those that keep their element type.
    pub kept: HashSet<String>,
    /// Bytes of them in the checkpoint.
    pub stored_bytes: u64,
}

/// Which file each of some tensors is in.
#[derive(Clone)]
pub(super) struct Files {
    /// What the tensors' names begin with in the checkpoint.
    prefix: String,
    files: HashMap<String, (&'static str, PathBuf)>,
}

impl Checkpoint {
    /// Reads names and shapes, and compares them with the model's. Gives the configuration that the
    /// tensors follow, too: whether the output projection is the embedding, they know best.
    pub(super) fn open(
        source: &dyn CheckpointSource,
        config: &ModelConfig,
    ) -> Result<(Self, ModelConfig), ModelError> {
        let mut tensors = BTreeMap::<String, SourceTensor>::new();
        for tensor in names::of_model(source.tensors()?, config) {
            let path = tensor.path.clone();
            if let Some(other) = tensors.insert(tensor.name.clone(), tensor) {
                return Err(ModelError::DuplicateTensor {
                    path,
                    other: other.path,
                    name: other.name,
                });
            }
        }
        let mut config = config.clone();
        if config.tie_word_embeddings {
            config.tie_word_embeddings = is_tied(source, &mut tensors)?;
        }
        let mut mismatch = compare(&config, &tensors);
        let is_only_head = mismatch.missing.iter().all(|(name, _)| name == LM_HEAD);
        if !mismatch.missing.is_empty() && is_only_head {
            mismatch.missing.clear();
            if mismatch.is_empty() {
                log::warn!(
                    "{}: there is no {LM_HEAD} although tie_word_embeddings is false; the embedding \
                     stands for it",
                    source.path().display()
                );
                config.tie_word_embeddings = true;
            }
        }
        if !mismatch.is_empty() {
            return Err(ModelError::Mismatch {
                dir: source.path().into(),
                mismatch: Box::new(mismatch),
            });
        }
        let norms_less_one = config.blocks.norms_less_one;
        let checkpoint = Self {
            tensors,
            norms_less_one,
        };
        Ok((checkpoint, config))
    }

    /// Number of tensors.
    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of all tensors, as they are stored.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.values().map(SourceTensor::stored_bytes).sum()
    }

    /// A tensor that is there still.
    pub(super) fn get(&self, name: &str) -> Option<&SourceTensor> {
        self.tensors.get(name)
    }

    /// Takes out the projections of the part `prefix` that stay in blocks on a device, by their names in
    /// it.
    pub(super) fn take_blocks(
        &mut self,
        prefix: &str,
        device: &Device,
    ) -> HashMap<String, SourceTensor> {
        let of_part = self.tensors.extract_if(.., |name, tensor| {
            name.starts_with(prefix) && is_kept(tensor, device)
        });
        of_part
            .map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor))
            .collect()
    }

    /// Takes out the tensors whose names begin with `prefix`; blocks will be widened to `dtype`. Matrices in f16
    /// and bf16 are to stay as they are with `keeps_halves`.
    ///
    /// A file is closed when the last of its tensors is gone.
    pub(super) fn take(&mut self, prefix: &str, dtype: DType, keeps_halves: bool) -> Tensors {
        let mut tensors = Vec::new();
        let mut kept = HashSet::new();
        let mut files = HashMap::new();
        let mut stored_bytes = 0;
        let of_part = self
            .tensors
            .extract_if(.., |name, _| name.starts_with(prefix));
        for (name, stored) in of_part {
            stored_bytes += stored.stored_bytes();
            let file = (stored.format, stored.path.clone());
            let half = kept_half(&stored).filter(|_| keeps_halves);
            let half = half.map(|(dtype, _)| dtype);
            let mut tensor = stored.into_plain(half.unwrap_or(dtype));
            if self.norms_less_one && name.ends_with(NORM) {
                tensor = one_more(tensor);
            }
            tensor.name = parameter_name(&name)[prefix.len()..].into();
            if half.is_some() {
                kept.insert(tensor.name.clone());
            }
            files.insert(tensor.name.clone(), file);
            tensors.push(tensor);
        }
        Tensors {
            tensors,
            files: Files {
                prefix: prefix.into(),
                files,
            },
            kept,
            stored_bytes,
        }
    }
}

impl Files {
    /// Why a tensor could not be read.
    pub(super) fn error(&self, error: &ApplyError) -> ModelError {
        let (ApplyError::ShapeMismatch { path, .. }
        | ApplyError::DTypeMismatch { path, .. }
        | ApplyError::AdapterError { path, .. }
        | ApplyError::LoadError { path, .. }) = error;
        self.garbled(path, error.to_string())
    }

    /// An error about the content of a tensor.
    pub(super) fn garbled(&self, tensor: &str, problem: impl Into<String>) -> ModelError {
        let (format, path) = &self.files[tensor];
        ModelError::garbled(path, format, problem)
    }

    /// The file that a tensor is in.
    pub(super) fn path(&self, tensor: &str) -> &Path {
        &self.files[tensor].1
    }

    /// The name that a tensor has in the checkpoint.
    pub(super) fn name(&self, tensor: &str) -> String {
        format!("{}{tensor}", self.prefix)
    }
}

/// Burn calls the weight of a norm gamma.
fn parameter_name(name: &str) -> String {
    match name.strip_suffix(NORM) {
        Some(start) => format!("{start}norm.gamma"),
        None => name.into(),
    }
}

/// A tensor of weights that are stored less one, in f32.
fn one_more(tensor: Tensor) -> Tensor {
    let (name, shape) = (tensor.name.clone(), tensor.shape.to_vec());
    let bytes = shape.iter().product::<usize>() * size_of::<f32>();
    Tensor::deferred(name, DType::F32, shape.clone(), None, bytes, move || {
        let dtype = tensor.dtype;
        let stored = TensorData::from_bytes(tensor.clone().into_bytes()?, shape.clone(), dtype);
        let stored = stored.convert::<f32>().try_to_vec::<f32>();
        let stored = stored.map_err(|error| Error::IoError(error.to_string()))?;
        Ok(Bytes::from_elems(
            stored.into_iter().map(|weight| weight + 1.0).collect(),
        ))
    })
}

/// Whether the output projection is the embedding where the configuration says so. A stored one that
/// repeats the embedding is left out; one of other values was trained, whatever the configuration says.
fn is_tied(
    source: &dyn CheckpointSource,
    tensors: &mut BTreeMap<String, SourceTensor>,
) -> Result<bool, ModelError> {
    let (Some(embedding), Some(lm_head)) = (tensors.get(EMBEDDING), tensors.get(LM_HEAD)) else {
        return Ok(true);
    };
    if embedding.shape == lm_head.shape && bytes(embedding)? == bytes(lm_head)? {
        tensors.remove(LM_HEAD);
        return Ok(true);
    }
    log::warn!(
        "{}: tie_word_embeddings is true, but {LM_HEAD} differs from {EMBEDDING}; it is used",
        source.path().display()
    );
    Ok(false)
}

fn bytes(tensor: &SourceTensor) -> Result<Bytes, ModelError> {
    let plain = tensor.clone().into_plain(DType::F32);
    let bytes = plain.into_bytes();
    bytes.map_err(|error| tensor.garbled(error.to_string()))
}

fn compare(config: &ModelConfig, tensors: &BTreeMap<String, SourceTensor>) -> TensorMismatch {
    let mut mismatch = TensorMismatch::default();
    let mut expected_names = HashSet::new();
    for stored in parameters::stored(config, |name| tensors.contains_key(name)) {
        let (name, expected) = (stored.name, stored.shape);
        match tensors.get(&name) {
            None if stored.is_optional => {}
            None => mismatch.missing.push((name.clone(), expected)),
            Some(tensor) => {
                let (found, dtype) = (tensor.shape.clone(), tensor.dtype());
                if found != expected {
                    let name = name.clone();
                    mismatch.misshapen.push(MisshapenTensor {
                        name,
                        expected,
                        found,
                    });
                }
                if stored.is_packed && dtype != DType::I32 {
                    mismatch.not_packed.push((name.clone(), dtype));
                }
                if !stored.is_packed && !dtype.is_float() {
                    mismatch.not_float.push((name.clone(), dtype));
                }
            }
        }
        expected_names.insert(name);
    }
    mismatch.unexpected = tensors
        .iter()
        .filter(|(name, _)| !expected_names.contains(*name))
        .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
        .collect();
    mismatch
}
