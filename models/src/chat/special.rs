use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::ChatError;
use crate::{config::fields::Fields, tokenizer::Tokenizer};

/// The texts of special tokens by their names, as `bos_token` and `eos_token`: variables of chat
/// templates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    tokens: BTreeMap<String, String>,
}

/// A token alone, or with how it is matched.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a token or an object with its `content`"
)]
enum Token {
    Text(String),
    Added { content: String },
}

impl SpecialTokens {
    /// The fields that hold one token.
    const NAMES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    /// Files that name them; the first one counts where both do.
    const FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

    /// Reads `tokenizer_config.json` and `special_tokens_map.json` of a checkpoint's folder, as far
    /// as they are there.
    ///
    /// # Errors
    ///
    /// When a file is not JSON or a token is not text.
    pub fn from_dir(dir: &Path) -> Result<Self, ChatError> {
        let mut special = Self::default();
        for file in Self::FILES {
            let path = dir.join(file);
            if !path.is_file() {
                continue;
            }
            let fields = Fields::read(&path)?;
            for name in Self::NAMES {
                if let Some(Token::Text(text) | Token::Added { content: text }) =
                    fields.optional(name)?
                {
                    special.tokens.entry(name.to_owned()).or_insert(text);
                }
            }
        }
        Ok(special)
    }

    /// Sets a token by its name, in place of what was there.
    pub fn with(mut self, name: &str, text: impl Into<String>) -> Self {
        self.tokens.insert(name.to_owned(), text.into());
        self
    }

    /// Adds a token by its id, unless one of this name is there or the tokenizer has none.
    pub fn or_id(self, name: &str, id: Option<u32>, tokenizer: &Tokenizer) -> Self {
        match id.and_then(|id| tokenizer.token(id)) {
            Some(text) if !self.tokens.contains_key(name) => self.with(name, text),
            _ => self,
        }
    }

    /// Names and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tokens.iter().map(|(name, text)| (&**name, &**text))
    }
}
