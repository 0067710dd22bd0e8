//! Text to token ids and back: a thin wrapper over Hugging Face's `tokenizers`.
//!
//! Tokenizers come from `tokenizer.json`, from SentencePiece's `tokenizer.model` where there is no
//! other file, and from the metadata of GGUF files.

mod added;
mod caught;
mod checks;
mod error;
mod folder;
pub(crate) mod sentencepiece;
mod stream;

use std::path::Path;

use tokenizers::{
    Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer,
};

pub use error::TokenizerError;
pub(crate) use folder::{parse_json, read as read_folder};
pub use stream::DecodeStream;

pub(crate) use added::add as add_tokens;
pub(crate) use caught::caught;

/// A token that is looked for in a text before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Whether it structures texts, and is left out of decoded ones.
    pub is_special: bool,
}

/// The tokenizer that a checkpoint comes with.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// The name of the file beside the weights.
    pub const FILE: &str = "tokenizer.json";

    /// Reads the tokenizer of a checkpoint: a folder or a GGUF file.
    ///
    /// # Errors
    ///
    /// When there is none, or it makes no sense.
    pub fn from_dir(path: &Path) -> Result<Self, TokenizerError> {
        let tokenizer = crate::source::open(path)?.tokenizer()?;
        tokenizer.ok_or_else(|| TokenizerError::Unsupported {
            path: path.into(),
            problem: format!("expected a tokenizer ({}), found none", Self::FILE),
        })
    }

    pub(crate) fn new(mut tokenizer: tokenizers::Tokenizer) -> Result<Self, tokenizers::Error> {
        // Some files carry the truncation or padding of their training; a prompt is neither
        // to be cut in silence nor filled up.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer })
    }

    /// Token ids of a text, with the special tokens that the tokenizer adds (as the beginning of
    /// a sequence). A text that begins with that token itself gets no second one.
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed in the vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode_with(text, true)?;
        if let [first, second, ..] = ids[..]
            && first == second
            && self.encode_with("", true)?.first() == Some(&first)
        {
            let token = self.token(first).unwrap_or_default();
            log::warn!(
                "the text begins with the BOS token {token}, which the tokenizer adds too: one of \
                 them is left out"
            );
            ids.remove(0);
        }
        Ok(ids)
    }

    /// Token ids of a text that follows another one: without the special tokens that a text begins
    /// and ends with.
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed in the vocabulary.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = caught(|| self.tokenizer.encode(text, special_tokens));
        Ok(encoding.map_err(TokenizerError::Encode)?.get_ids().to_vec())
    }

    /// Token ids of a text in which no added token is looked for, special or not: `</s>` is three or
    /// four characters.
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed in the vocabulary.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = caught(|| {
            let mut normalized = NormalizedString::from(text);
            if let Some(normalizer) = self.tokenizer.get_normalizer() {
                normalizer.normalize(&mut normalized)?;
            }
            let mut words = PreTokenizedString::from(normalized);
            if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut words)?;
            }
            let model = self.tokenizer.get_model();
            model.tokenize_in_pretokenized(&mut words, None)?;
            words.into_encoding(None, 0, OffsetType::Byte)
        });
        Ok(encoding.map_err(TokenizerError::Encode)?.get_ids().to_vec())
    }

    /// Tokens that are looked for in a text before anything else, by their ids.
    pub fn added_tokens(&self) -> Vec<AddedToken> {
        let tokens = self.tokenizer.get_added_tokens_decoder();
        let tokens = tokens.into_iter().map(|(id, token)| AddedToken {
            id,
            text: token.content,
            is_special: token.special,
        });
        let mut tokens = tokens.collect::<Vec<_>>();
        tokens.sort_by_key(|token| token.id);
        tokens
    }

    /// The text of token ids, without special tokens.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = caught(|| self.tokenizer.decode(ids, true));
        text.map_err(TokenizerError::Decode)
    }

    /// The text of token ids, special tokens as they are written.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = caught(|| self.tokenizer.decode(ids, false));
        text.map_err(TokenizerError::Decode)
    }

    /// A decoder that takes ids one by one, at the beginning of a text.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// The same for ids that follow others: the space before a first word stays.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn decode_stream_after(&self, before: &[u32]) -> Result<DecodeStream<'_>, TokenizerError> {
        DecodeStream::after(self, before)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The content of a `tokenizer.json` of this tokenizer.
    ///
    /// # Errors
    ///
    /// When it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let json = self.tokenizer.to_string(false);
        json.map_err(TokenizerError::Encode)
    }
}

#[cfg(test)]
mod tests;
