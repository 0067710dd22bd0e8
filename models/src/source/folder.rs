use std::path::{Path, PathBuf};

use super::{
    CheckpointSource, Companion, GenerationDefaults, SourceTensor, entries, files, read_file,
};
use crate::{
    chat::{ChatError, ChatTemplates, SpecialTokens},
    config::{ModelConfig, fields::Fields, hugging_face},
    error::ModelError,
    tokenizer::{self, Tokenizer, TokenizerError},
};

/// The name of what fine-tuning with LoRA leaves beside the weights it changes.
const ADAPTER: &str = "adapter_config.json";

/// What Meta's own releases have in the place of `config.json`.
const META_CONFIG: &str = "params.json";

/// The files beside the weights that say something of the model.
const COMPANIONS: [&str; 13] = [
    ModelConfig::FILE,
    ModelConfig::GENERATION_FILE,
    Tokenizer::FILE,
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    ChatTemplates::FILE,
    "chat_template.json",
    "quantize_config.json",
    "quant_config.json",
];

/// A folder as Hugging Face transformers writes it: `config.json`, weights in safetensors or PyTorch
/// files or a burnpack, a tokenizer.
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
        if !self.dir.join(ModelConfig::FILE).exists() {
            let found = match self.dir.join(META_CONFIG).exists() {
                true => "a model in Meta's original form (convert it to Hugging Face's first)",
                false if entries(&self.dir)?.is_empty() => "an empty folder",
                false => "a folder without config.json",
            };
            return Err(ModelError::Folder {
                path: self.dir.clone(),
                found,
            });
        }
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

    fn companions(&self) -> Result<Vec<Companion>, ModelError> {
        let mut names = COMPANIONS.map(str::to_owned).to_vec();
        let further = self.dir.join(ChatTemplates::FOLDER);
        if further.is_dir() {
            for path in entries(&further)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.ends_with(".jinja") {
                    names.push(format!("{}/{name}", ChatTemplates::FOLDER));
                }
            }
        }
        let files = names.into_iter().filter_map(|name| {
            let path = self.dir.join(&name);
            let file = |bytes| Companion { name, bytes };
            path.is_file().then(|| Ok(file(read_file(&path)?)))
        });
        files.collect()
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
