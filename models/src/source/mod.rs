//! Where a model comes from: a Hugging Face folder, a GGUF file, or memory.
//!
//! [`open`] finds out what a path is. The [`CheckpointSource`] that it gives says what the checkpoint
//! knows of itself; everything above it (configuration, tokenizer, weights) reads nothing else, so it
//! works with every kind of checkpoint.

mod files;
mod folder;
mod hub_cache;
mod lfs;
mod memory;
mod tensor;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use folder::HuggingFaceFolder;
pub(crate) use lfs::{is_pointer as is_lfs_pointer, read as read_file};
pub use memory::MemoryCheckpoint;
use serde_json::{Map, Value};
pub(crate) use tensor::aligned;
pub use tensor::{BlockTensor, SourceTensor, TensorData};

use crate::{
    chat::{ChatError, ChatTemplates, SpecialTokens},
    config::ModelConfig,
    error::ModelError,
    gguf::GgufCheckpoint,
    sampling::SamplingDefaults,
    tokenizer::{Tokenizer, TokenizerError},
};

/// A checkpoint: what it says of itself, and its tensors.
///
/// Nothing but names and headers is read before a tensor's bytes are asked for.
pub trait CheckpointSource: fmt::Debug + Send + Sync {
    /// The folder or file that the checkpoint is.
    fn path(&self) -> &Path;

    /// What kind of checkpoint it is, for messages.
    fn kind(&self) -> &'static str;

    /// The shape of the model.
    ///
    /// # Errors
    ///
    /// When the configuration is absent, makes no sense, or is of a model that is not supported. The
    /// message names the file and the field.
    fn config(&self) -> Result<ModelConfig, ModelError>;

    /// The tokenizer, where the checkpoint has one.
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense.
    fn tokenizer(&self) -> Result<Option<Tokenizer>, TokenizerError>;

    /// The chat templates, where the checkpoint has any.
    ///
    /// # Errors
    ///
    /// When a file that holds them makes no sense.
    fn chat_templates(&self) -> Result<Option<ChatTemplates>, ChatError>;

    /// The special tokens that chat templates name.
    ///
    /// # Errors
    ///
    /// When a file that holds them makes no sense.
    fn special_tokens(&self) -> Result<SpecialTokens, ChatError>;

    /// What the checkpoint recommends for generating with it.
    ///
    /// # Errors
    ///
    /// When a file that holds it makes no sense.
    fn generation(&self) -> Result<GenerationDefaults, ModelError>;

    /// The files of a Hugging Face folder that say what this checkpoint says beside its weights.
    ///
    /// # Errors
    ///
    /// When one cannot be read, or what it would say makes no sense.
    fn companions(&self) -> Result<Vec<Companion>, ModelError>;

    /// All tensors, by the names and with the shapes that Hugging Face gives them.
    ///
    /// # Errors
    ///
    /// When a file is absent, truncated or garbled, or a tensor is of a type that is not supported.
    fn tensors(&self) -> Result<Vec<SourceTensor>, ModelError>;
}

/// A file beside the weights: configuration, tokenizer, chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Its name in a Hugging Face folder, which may begin with that of a folder inside.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Companion {
    pub(crate) fn json(name: &str, fields: &Map<String, Value>) -> Self {
        let text = serde_json::to_string_pretty(fields).expect("JSON can be written");
        Self {
            name: name.into(),
            bytes: (text + "\n").into_bytes(),
        }
    }
}

/// What a checkpoint recommends for generating.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// How the next token is chosen; greedy where the checkpoint says nothing.
    pub sampling: SamplingDefaults,
    /// Tokens that end a text.
    pub stop_token_ids: Vec<u32>,
}

/// Opens what a path names:
///
/// - a Hugging Face folder, with weights as safetensors, PyTorch files or a burnpack;
/// - a folder of the hub's cache (`models--org--name`), whose one snapshot or `main` is taken;
/// - a GGUF file, or one of the shards of a model in several; a folder with a single such model.
///
/// # Errors
///
/// When nothing is there, or something else; the message says what.
pub fn open(path: &Path) -> Result<Box<dyn CheckpointSource>, ModelError> {
    if path.is_file() {
        if files::is_gguf(path)? {
            return Ok(Box::new(GgufCheckpoint::open(path)?));
        }
        return Err(ModelError::Folder {
            path: path.into(),
            found: "a file of another kind",
        });
    }
    if !path.is_dir() {
        return Err(ModelError::Folder {
            path: path.into(),
            found: "nothing",
        });
    }
    let dir = hub_cache::snapshot(path)?;
    let dir = dir.as_deref().unwrap_or(path);
    if let Some(gguf) = files::only_gguf(dir)? {
        return Ok(Box::new(GgufCheckpoint::open(&gguf)?));
    }
    Ok(Box::new(HuggingFaceFolder::open(dir)?))
}

/// The files of a folder, sorted by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let read = |source| ModelError::Read {
        path: dir.into(),
        source,
    };
    let mut entries = std::fs::read_dir(dir)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(read)?;
    entries.sort();
    Ok(entries)
}
