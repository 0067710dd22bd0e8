//! GGUF files, the format of llama.cpp: configuration, tokenizer and weights in one file or in shards.
//!
//! The format is described in [ggml's documentation](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//! A file becomes what a Hugging Face folder would say: names and fields are translated, rows of
//! queries and keys put back into Hugging Face's order.

mod companions;
mod config;
mod file;
mod keys;
mod metadata;
mod names;
mod pre_tokenizers;
mod reader;
mod rope;
mod shards;
mod tensors;
mod tokenizer;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

pub(crate) use keys::Keys;
pub use metadata::{Metadata, Value};
pub(crate) use shards::number as shard_number;

use crate::{
    chat::{ChatError, ChatTemplates, SpecialTokens},
    config::ModelConfig,
    error::ModelError,
    sampling::SamplingDefaults,
    source::{CheckpointSource, Companion, GenerationDefaults, SourceTensor},
    tokenizer::{Tokenizer, TokenizerError},
};
use file::{GgufFile, TensorInfo};

/// The name of the format, for messages.
const NAME: &str = "GGUF";

/// A model in a GGUF file, or in several shards.
#[derive(Debug)]
pub struct GgufCheckpoint {
    path: PathBuf,
    /// The first one has the metadata of all.
    files: Vec<GgufFile>,
}

impl GgufCheckpoint {
    /// Reads the heads of a file and, where it is a shard, of the others beside it.
    ///
    /// # Errors
    ///
    /// When a file is absent, truncated, garbled, or holds tensors in a format that is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let paths = shards::all(path)?;
        let files = paths.iter().map(|path| GgufFile::open(path));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        shards::check(&paths, &files)?;
        Ok(Self {
            path: path.into(),
            files,
        })
    }

    /// What the file says of itself.
    pub fn metadata(&self) -> &Metadata {
        &self.files[0].metadata
    }

    /// The configuration as a `config.json`.
    ///
    /// # Errors
    ///
    /// As [`CheckpointSource::config`].
    pub fn config_json(&self) -> Result<Map<String, Json>, ModelError> {
        config::translate(self)
    }

    /// A tensor by ggml's name, and the file that it is in.
    fn tensor(&self, name: &str) -> Option<(&GgufFile, &TensorInfo)> {
        let files = self.files.iter();
        let mut found = files.filter_map(|file| Some((file, file.tensors.get(name)?)));
        found.next()
    }

    fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }
}

impl CheckpointSource for GgufCheckpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn kind(&self) -> &'static str {
        NAME
    }

    fn config(&self) -> Result<ModelConfig, ModelError> {
        config::read(self)
    }

    fn tokenizer(&self) -> Result<Option<Tokenizer>, TokenizerError> {
        tokenizer::read(self.metadata())
    }

    fn chat_templates(&self) -> Result<Option<ChatTemplates>, ChatError> {
        Ok(tokenizer::chat_templates(self.metadata())?)
    }

    fn special_tokens(&self) -> Result<SpecialTokens, ChatError> {
        Ok(tokenizer::special_tokens(self.metadata())?)
    }

    fn generation(&self) -> Result<GenerationDefaults, ModelError> {
        Ok(GenerationDefaults {
            sampling: SamplingDefaults::default(),
            stop_token_ids: tokenizer::stop_ids(self.metadata())?,
        })
    }

    fn companions(&self) -> Result<Vec<Companion>, ModelError> {
        companions::all(self)
    }

    fn tensors(&self) -> Result<Vec<SourceTensor>, ModelError> {
        tensors::all(self)
    }
}
