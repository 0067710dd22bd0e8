//! Token ids from what the user gave: a text or a file.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use quest_burn_models::{generation::GenerateError, tokenizer::Tokenizer};
use serde_json::Value;

use crate::input;

/// Ids of a text. Those of an empty one are what texts begin with, where the tokenizer has that.
pub(crate) fn from_text(text: &str, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<u32>> {
    let tokenizer = tokenizer.ok_or_else(|| {
        anyhow!(
            "text needs {} next to the weights, found none (give token ids with --ids)",
            Tokenizer::FILE
        )
    })?;
    let ids = tokenizer.encode(text)?;
    if ids.is_empty() {
        bail!(GenerateError::EmptyPrompt);
    }
    Ok(ids)
}

/// Ids of a text in a file.
pub(crate) fn from_text_file(
    path: &Path,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<Vec<u32>> {
    from_text(&text_file(path)?, tokenizer).with_context(|| path.display().to_string())
}

/// The text in a file.
pub(crate) fn text_file(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(input::read(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let path = path.display();
        anyhow!("{path}: expected text in UTF-8, found something else at byte {at}")
    })
}

/// Ids in a JSON file: an array, or an object with a field `ids`.
pub(crate) fn from_json_file(path: &Path) -> anyhow::Result<Vec<u32>> {
    from_json(&input::read(path)?).with_context(|| path.display().to_string())
}

fn from_json(bytes: &[u8]) -> anyhow::Result<Vec<u32>> {
    let value = serde_json::from_slice(bytes).context("expected JSON")?;
    let array = match &value {
        Value::Array(array) => Some(array),
        Value::Object(object) => object.get("ids").and_then(Value::as_array),
        _ => None,
    };
    let array = array.ok_or_else(|| {
        anyhow!("expected a JSON array of token ids or an object with one in its field `ids`")
    })?;
    let ids = array.iter().enumerate().map(|(index, entry)| {
        let id = entry.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| anyhow!("expected a token id, found {entry} at index {index}"))
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_an_array_or_a_field() {
        assert_eq!(from_json(b"[1, 2]").unwrap(), [1, 2]);
        let golden = br#"{ "prefill": 3, "ids": [4, 4294967295] }"#;
        assert_eq!(from_json(golden).unwrap(), [4, u32::MAX]);
    }

    #[test]
    fn what_is_not_an_id_is_named() {
        for (bad, message) in [
            ("[1, -2]", "found -2 at index 1"),
            ("[1.5]", "found 1.5 at index 0"),
            ("[\"a\"]", "found \"a\" at index 0"),
            ("[4294967296]", "found 4294967296"),
            ("7", "expected a JSON array"),
            ("{\"ids\": 7}", "expected a JSON array"),
            ("{\"tokens\": [7]}", "expected a JSON array"),
            ("[1, 2", "expected JSON"),
            ("", "expected JSON"),
        ] {
            let error = format!("{:#}", from_json(bad.as_bytes()).unwrap_err());
            assert!(error.contains(message), "{bad}: {error}");
        }
    }
}
