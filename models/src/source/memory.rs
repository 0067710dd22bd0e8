use std::{
    fmt,
    path::{Path, PathBuf},
};

use burn::store::{ModuleStore, SafetensorsStore};

use super::{CheckpointSource, Companion, GenerationDefaults, SourceTensor};
use crate::{
    chat::{ChatError, ChatTemplates, SpecialTokens},
    config::{ModelConfig, fields::Fields, hugging_face},
    error::ModelError,
    tokenizer::{self, Tokenizer, TokenizerError},
};

const WEIGHTS: &str = "model.safetensors";
const FORMAT: &str = "safetensors";

/// A checkpoint in memory, as a program carries one: the configuration, the tokenizer and the one safetensors
/// file of a Hugging Face folder. It has no chat template.
#[derive(Clone)]
pub struct MemoryCheckpoint {
    /// The name of the folder, for messages.
    path: PathBuf,
    files: &'static [(&'static str, &'static [u8])],
}

impl MemoryCheckpoint {
    /// Of files by their names in the folder `name`.
    pub fn new(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self {
            path: name.into(),
            files,
        }
    }

    /// A file's path for messages, and its content if it is there.
    fn file(&self, name: &str) -> (PathBuf, Option<&'static [u8]>) {
        let mut files = self.files.iter();
        let found = files.find(|(file, _)| *file == name);
        (self.path.join(name), found.map(|(_, bytes)| *bytes))
    }
}

impl fmt::Debug for MemoryCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCheckpoint")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl CheckpointSource for MemoryCheckpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn kind(&self) -> &'static str {
        "checkpoint in memory"
    }

    fn config(&self) -> Result<ModelConfig, ModelError> {
        let (path, bytes) = self.file(ModelConfig::FILE);
        let Some(bytes) = bytes else {
            return Err(ModelError::Folder {
                path: self.path.clone(),
                found: "files without config.json",
            });
        };
        let config = hugging_face::parse(Fields::parse(&path, bytes)?)?;
        let recommended = self.generation()?.stop_token_ids;
        Ok(hugging_face::stopping_at(config, recommended))
    }

    fn tokenizer(&self) -> Result<Option<Tokenizer>, TokenizerError> {
        let (path, bytes) = self.file(Tokenizer::FILE);
        let tokenizer = bytes.map(|bytes| tokenizer::parse_json(&path, bytes));
        tokenizer.transpose()
    }

    fn chat_templates(&self) -> Result<Option<ChatTemplates>, ChatError> {
        Ok(None)
    }

    fn special_tokens(&self) -> Result<SpecialTokens, ChatError> {
        Ok(SpecialTokens::default())
    }

    fn generation(&self) -> Result<GenerationDefaults, ModelError> {
        let (path, bytes) = self.file(ModelConfig::GENERATION_FILE);
        match bytes {
            Some(bytes) => hugging_face::recommended(&Fields::parse(&path, bytes)?),
            None => Ok(GenerationDefaults::default()),
        }
    }

    fn companions(&self) -> Result<Vec<Companion>, ModelError> {
        let files = self.files.iter().filter(|(name, _)| *name != WEIGHTS);
        let companions = files.map(|(name, bytes)| Companion {
            name: (*name).to_owned(),
            bytes: bytes.to_vec(),
        });
        Ok(companions.collect())
    }

    fn tensors(&self) -> Result<Vec<SourceTensor>, ModelError> {
        let (path, bytes) = self.file(WEIGHTS);
        let Some(bytes) = bytes else {
            return Err(ModelError::NoWeights {
                dir: self.path.clone(),
                expected: WEIGHTS.into(),
                found: "none".into(),
            });
        };
        let mut store = SafetensorsStore::from_bytes(Some(bytes.to_vec()));
        let tensors = store.get_all_tensors();
        let tensors =
            tensors.map_err(|error| ModelError::garbled(&path, FORMAT, error.to_string()))?;
        let stored = |tensor| SourceTensor::plain(tensor, &path, FORMAT);
        Ok(tensors.values().cloned().map(stored).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::source;

    #[test]
    fn files_in_memory_say_what_their_folder_says() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/quest-passkey");
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(shipped.join(name), dir.path().join(name)).unwrap();
        }
        let generation = r#"{"eos_token_id": [3, 4], "do_sample": true, "top_k": 5}"#;
        fs::write(dir.path().join("generation_config.json"), generation).unwrap();
        let files = fs::read_dir(dir.path()).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (&*name.leak(), &*fs::read(&path).unwrap().leak())
        });
        let memory = MemoryCheckpoint::new("passkey", files.collect::<Vec<_>>().leak());
        let folder = source::open(dir.path()).unwrap();
        assert_eq!(memory.config().unwrap(), folder.config().unwrap());
        assert_eq!(memory.config().unwrap().stop_token_ids, [3, 4]);
        assert_eq!(memory.generation().unwrap(), folder.generation().unwrap());
        let encode = |source: &dyn CheckpointSource| {
            let tokenizer = source.tokenizer().unwrap().unwrap();
            tokenizer.encode("a text").unwrap()
        };
        assert_eq!(encode(&memory), encode(&*folder));
        let values = |source: &dyn CheckpointSource| {
            let tensors = source.tensors().unwrap().into_iter().map(|tensor| {
                let (name, dtype) = (tensor.name.clone(), tensor.dtype());
                let bytes = tensor.into_plain(dtype).into_bytes().unwrap();
                (name, bytes.to_vec())
            });
            tensors.collect::<Vec<_>>()
        };
        assert_eq!(values(&memory), values(&*folder));
    }

    #[test]
    fn what_is_absent_in_memory_is_named() {
        let memory = MemoryCheckpoint::new("tiny", &[]);
        let error = memory.config().unwrap_err().to_string();
        assert!(
            error.contains("tiny") && error.contains("config.json"),
            "{error}"
        );
        let error = memory.tensors().unwrap_err().to_string();
        assert!(error.contains("tiny") && error.contains(WEIGHTS), "{error}");
        assert!(memory.tokenizer().unwrap().is_none());
    }
}
