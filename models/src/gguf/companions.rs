//! The files of a Hugging Face folder that say what a GGUF file's metadata says.

use serde_json::{Map, Value, json};

use super::{GgufCheckpoint, tokenizer};
use crate::{
    config::ModelConfig,
    error::ModelError,
    source::{CheckpointSource, Companion},
    tokenizer::Tokenizer,
};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

pub(super) fn all(checkpoint: &GgufCheckpoint) -> Result<Vec<Companion>, ModelError> {
    let metadata = checkpoint.metadata();
    let mut files = vec![Companion::json(
        ModelConfig::FILE,
        &checkpoint.config_json()?,
    )];
    let stop_ids = tokenizer::stop_ids(metadata)?;
    if !stop_ids.is_empty() {
        let generation = object(json!({ "eos_token_id": stop_ids }));
        files.push(Companion::json(ModelConfig::GENERATION_FILE, &generation));
    }
    let Some(tokenizer) = checkpoint.tokenizer()? else {
        return Ok(files);
    };
    files.push(Companion {
        name: Tokenizer::FILE.into(),
        bytes: tokenizer.to_json()?.into_bytes(),
    });
    let mut config = object(json!({ "tokenizer_class": "PreTrainedTokenizerFast" }));
    for (name, text) in tokenizer::special_tokens(metadata)?.iter() {
        config.insert(name.into(), text.into());
    }
    if let Some(templates) = tokenizer::chat_templates(metadata)? {
        config.insert("chat_template".into(), templates.to_json());
    }
    files.push(Companion::json(TOKENIZER_CONFIG, &config));
    Ok(files)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
