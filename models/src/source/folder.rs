use std::path::{Path, PathBuf};

use super::{CheckpointSource, GenerationDefaults, SourceTensor, files};
use crate::{
    chat::{ChatError, ChatTemplates, SpecialTokens},
    config::{ModelConfig, fields::Fields, hugging_face},
    error::ModelError,
    tokenizer::{self, Tokenizer, TokenizerError},
};

/// The name of what fine-tuning with LoRA leaves beside the weights it changes.
const ADAPTER: &str = "adapter_config.json";

/// A folder as Hugging Face transformers writes it: `config.json`, weights in safetensors or PyTorch
/// files, a tokenizer.
#[derive(Clone, Debug)]
pub struct HuggingFaceFolder {
    dir: PathBuf,
}

impl HuggingFaceFolder {
    /// Opens a folder.
    ///
    /// # Errors
    ///
    /// When it is that of a LoRA adapter, which is no model by itself.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let adapter = dir.join(ADAPTER);
        if adapter.is_file() && !dir.join(ModelConfig::FILE).is_file() {
            let base = Fields::read(&adapter)?
                .optional::<String>("base_model_name_or_path")
                .unwrap_or_default();
            return Err(ModelError::Adapter {
                path: dir.into(),
                base: base.unwrap_or_else(|| "its base model".into()),
            });
        }
        Ok(Self { dir: dir.into() })
    }
}

impl CheckpointSource for HuggingFaceFolder {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn kind(&self) -> &'static str {
        "Hugging Face folder"
    }

    fn config(&self) -> Result<ModelConfig, ModelError> {
        hugging_face::read(&self.dir)
    }

    fn tokenizer(&self) -> Result<Option<Tokenizer>, TokenizerError> {
        tokenizer::read_folder(&self.dir)
    }

    fn chat_templates(&self) -> Result<Option<ChatTemplates>, ChatError> {
        ChatTemplates::from_dir(&self.dir)
    }

    fn special_tokens(&self) -> Result<SpecialTokens, ChatError> {
        SpecialTokens::from_dir(&self.dir)
    }

    fn generation(&self) -> Result<GenerationDefaults, ModelError> {
        hugging_face::generation(&self.dir)
    }

    fn tensors(&self) -> Result<Vec<SourceTensor>, ModelError> {
        let (format, files) = files::find(&self.dir)?;
        let tensors = files.iter().map(|file| format.tensors(file));
        Ok(tensors
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect())
    }
}
