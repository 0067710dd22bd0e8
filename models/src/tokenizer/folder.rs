use std::path::Path;

use serde_json::Value;

use super::{Tokenizer, TokenizerError, added, caught::caught, checks, sentencepiece};
use crate::{config::fields::Fields, error::ModelError, source::read_file};

const CONFIG: &str = "tokenizer_config.json";

/// The tokenizer of a folder: `tokenizer.json`, or SentencePiece's file where there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<Tokenizer>, TokenizerError> {
    let path = dir.join(Tokenizer::FILE);
    let model = dir.join(sentencepiece::FILE);
    let tokenizer = if path.is_file() {
        read_json(&path)?
    } else if model.is_file() {
        sentencepiece::read(&model)?
    } else {
        return Ok(None);
    };
    let config = dir.join(CONFIG);
    if config.is_file() {
        return Ok(Some(with_bos(tokenizer, &config)?));
    }
    Ok(Some(tokenizer))
}

fn read_json(path: &Path) -> Result<Tokenizer, TokenizerError> {
    let bytes = read_file(path).map_err(|source| match source {
        ModelError::LfsPointer { .. } => source.into(),
        source => TokenizerError::Read {
            path: path.into(),
            source: Box::new(source),
        },
    })?;
    parse_json(path, &bytes)
}

/// The tokenizer that the content of `tokenizer.json` is.
pub(crate) fn parse_json(path: &Path, bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let parse = |source| TokenizerError::Parse {
        path: path.into(),
        source,
    };
    let mut json = serde_json::from_slice::<Value>(bytes).map_err(|error| parse(error.into()))?;
    checks::template(&json).map_err(|problem| TokenizerError::Unsupported {
        path: path.into(),
        problem,
    })?;
    checks::replace_strips(&mut json);
    let tokenizer = caught(|| {
        let tokenizer = serde_json::from_value(json)?;
        Tokenizer::new(tokenizer)
    });
    tokenizer.map_err(parse)
}

/// `tokenizer_config.json` may ask for a beginning that `tokenizer.json` does not add: transformers 4
/// and llama.cpp add it.
fn with_bos(mut tokenizer: Tokenizer, path: &Path) -> Result<Tokenizer, TokenizerError> {
    let fields = Fields::read(path)?;
    if fields.optional::<bool>("add_bos_token")? != Some(true) {
        return Ok(tokenizer);
    }
    let token = match fields.optional::<Value>("bos_token")? {
        Some(Value::String(token)) => token,
        Some(token) => match token.get("content").and_then(Value::as_str) {
            Some(token) => token.to_owned(),
            None => return Ok(tokenizer),
        },
        None => return Ok(tokenizer),
    };
    let id = tokenizer.id(&token).ok_or_else(|| {
        let problem = format!("expected a token of the vocabulary, found `{token}`");
        fields.invalid("bos_token", problem)
    })?;
    if !tokenizer.encode_with("", true)?.is_empty() {
        return Ok(tokenizer);
    }
    let result = added::add(&mut tokenizer.tokenizer, Some((token, id)), None);
    result.map_err(|source| TokenizerError::Parse {
        path: path.into(),
        source,
    })?;
    Ok(tokenizer)
}
