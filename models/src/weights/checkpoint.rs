use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use burn::{
    store::{ApplyError, burn_pack::Tensor},
    tensor::DType,
};

use super::files::{self, Format};
use crate::{
    config::{ModelConfig, parameters},
    error::{MisshapenTensor, ModelError, TensorMismatch},
};

/// The tensors of a checkpoint by name, their bytes not yet read: those of the model, no others.
pub struct Checkpoint {
    format: Format,
    tensors: BTreeMap<String, Stored>,
}

struct Stored {
    tensor: Tensor,
    file: PathBuf,
}

/// Tensors of one part of the model, named as the part names its parameters.
pub struct Tensors {
    pub tensors: Vec<Tensor>,
    pub files: Files,
}

/// Which file each of some tensors is in.
#[derive(Clone)]
pub struct Files {
    format: Format,
    files: HashMap<String, PathBuf>,
}

impl Checkpoint {
    /// Finds the files, reads names and shapes, and compares them with the model's.
    pub fn open(dir: &Path, config: &ModelConfig) -> Result<Self, ModelError> {
        let (format, files) = files::find(dir)?;
        let mut tensors = BTreeMap::<String, Stored>::new();
        for file in files {
            for tensor in format.tensors(&file)? {
                let name = tensor.name.clone();
                if is_redundant(&name, config) {
                    continue;
                }
                let stored = Stored {
                    tensor,
                    file: file.clone(),
                };
                if let Some(other) = tensors.insert(name.clone(), stored) {
                    let other = other.file;
                    return Err(ModelError::DuplicateTensor {
                        path: file,
                        other,
                        name,
                    });
                }
            }
        }
        let mismatch = compare(config, &tensors);
        if !mismatch.is_empty() {
            return Err(ModelError::Mismatch {
                dir: dir.into(),
                mismatch: Box::new(mismatch),
            });
        }
        Ok(Self { format, tensors })
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of all tensors, as they are stored.
    pub fn bytes(&self) -> u64 {
        self.tensors
            .values()
            .map(|stored| stored.tensor.byte_len() as u64)
            .sum()
    }

    /// Takes out the tensors whose names begin with `prefix`.
    ///
    /// A file is closed when the last of its tensors is gone.
    pub fn take(&mut self, prefix: &str) -> Tensors {
        let mut tensors = Vec::new();
        let mut files = HashMap::new();
        for (name, Stored { mut tensor, file }) in self
            .tensors
            .extract_if(.., |name, _| name.starts_with(prefix))
        {
            tensor.name = parameter_name(&name)[prefix.len()..].into();
            files.insert(tensor.name.clone(), file);
            tensors.push(tensor);
        }
        let files = Files {
            format: self.format,
            files,
        };
        Tensors { tensors, files }
    }
}

impl Files {
    /// Why a tensor could not be read.
    pub fn error(&self, error: &ApplyError) -> ModelError {
        let (ApplyError::ShapeMismatch { path, .. }
        | ApplyError::DTypeMismatch { path, .. }
        | ApplyError::AdapterError { path, .. }
        | ApplyError::LoadError { path, .. }) = error;
        self.garbled(path, error.to_string())
    }

    /// An error about the content of a tensor.
    pub fn garbled(&self, tensor: &str, problem: impl Into<String>) -> ModelError {
        self.format.garbled(self.path(tensor), problem)
    }

    /// The file that a tensor is in.
    pub fn path(&self, tensor: &str) -> &Path {
        &self.files[tensor]
    }
}

/// Burn calls the weight of a norm gamma.
fn parameter_name(name: &str) -> String {
    match name.strip_suffix("norm.weight") {
        Some(start) => format!("{start}norm.gamma"),
        None => name.into(),
    }
}

/// Whether a tensor follows from others: frequencies that older versions of transformers saved, and
/// an output projection that is the embedding.
fn is_redundant(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || (config.tie_word_embeddings && name == "lm_head.weight")
}

fn compare(config: &ModelConfig, tensors: &BTreeMap<String, Stored>) -> TensorMismatch {
    let mut mismatch = TensorMismatch::default();
    let mut expected_names = HashSet::new();
    for stored in parameters::stored(config) {
        let (name, expected) = (stored.name, stored.shape);
        match tensors.get(&name) {
            None if stored.is_optional => {}
            None => mismatch.missing.push((name.clone(), expected)),
            Some(Stored { tensor, .. }) => {
                let found = tensor.shape.to_vec();
                if found != expected {
                    let name = name.clone();
                    mismatch.misshapen.push(MisshapenTensor {
                        name,
                        expected,
                        found,
                    });
                }
                if stored.is_packed && tensor.dtype != DType::I32 {
                    mismatch.not_packed.push((name.clone(), tensor.dtype));
                }
                if !stored.is_packed && !tensor.dtype.is_float() {
                    mismatch.not_float.push((name.clone(), tensor.dtype));
                }
            }
        }
        expected_names.insert(name);
    }
    mismatch.unexpected = tensors
        .iter()
        .filter(|(name, _)| !expected_names.contains(*name))
        .map(|(name, stored)| (name.clone(), stored.tensor.shape.to_vec()))
        .collect();
    mismatch
}
