//! Text to token ids and back: a thin wrapper over Hugging Face's `tokenizers`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokenizers::{
    DecodeStreamError, DecoderWrapper, Model, ModelWrapper, NormalizedString, Normalizer,
    NormalizerWrapper, OffsetType, PostProcessorWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper,
};

/// Why text did not become ids, or ids text.
#[derive(Error, Debug)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("expected a tokenizer in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file does not describe a tokenizer.
    #[error("expected a Hugging Face tokenizer in {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: tokenizers::Error,
    },
    /// The text cannot be encoded.
    #[error("text could not be encoded")]
    Encode(#[source] tokenizers::Error),
    /// The ids cannot be decoded.
    #[error("token ids could not be decoded")]
    Decode(#[source] tokenizers::Error),
}

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

    /// Reads `tokenizer.json` of a checkpoint's folder.
    ///
    /// # Errors
    ///
    /// When the file is absent or not a tokenizer.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let path = dir.join(Self::FILE);
        let bytes = fs::read(&path).map_err(|source| TokenizerError::Read {
            path: path.clone(),
            source,
        })?;
        let parsed = tokenizers::Tokenizer::from_bytes(bytes).and_then(|mut tokenizer| {
            // Some files carry the truncation or padding of their training; a prompt is neither
            // to be cut in silence nor filled up.
            tokenizer.with_truncation(None)?;
            tokenizer.with_padding(None);
            Ok(tokenizer)
        });
        match parsed {
            Ok(tokenizer) => Ok(Self { tokenizer }),
            Err(source) => Err(TokenizerError::Parse { path, source }),
        }
    }

    /// Token ids of a text, with the special tokens that the tokenizer adds (as the beginning of
    /// a sequence).
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed in the vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, true)
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
        let encoding = self.tokenizer.encode(text, special_tokens);
        Ok(encoding.map_err(TokenizerError::Encode)?.get_ids().to_vec())
    }

    /// Token ids of a text in which no added token is looked for, special or not: `</s>` is three or
    /// four characters.
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed in the vocabulary.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encode = || {
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
        };
        let encoding = encode().map_err(TokenizerError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of a token, as it is in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
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
        let text = self.tokenizer.decode(ids, true);
        text.map_err(TokenizerError::Decode)
    }

    /// A decoder that takes ids one by one.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            stream: self.tokenizer.decode_stream(true),
            shown: Vec::new(),
            pending: Vec::new(),
        }
    }
}

type Stream<'a> = tokenizers::DecodeStream<
    'a,
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Decodes ids one by one, in whole characters.
///
/// Made by [`Tokenizer::decode_stream`].
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    stream: Stream<'a>,
    /// Ids of the text given out last.
    shown: Vec<u32>,
    /// Ids after these, whose text is held back.
    pending: Vec<u32>,
}

impl DecodeStream<'_> {
    /// The text that becomes known with the next id. It is empty when the id ends in the middle
    /// of a character.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.pending.push(id);
        let text = match self.stream.step(id) {
            Err(error) if error.is::<DecodeStreamError>() => self.restart(),
            stepped => stepped.map(Option::unwrap_or_default),
        };
        let text = text.map_err(TokenizerError::Decode)?;
        if !text.is_empty() {
            self.shown = std::mem::take(&mut self.pending);
        }
        Ok(text)
    }

    /// A run of byte tokens that turns out not to be UTF-8 changes text that was already given
    /// out: the stream cannot go on from there, but a new one can from the ids behind it.
    fn restart(&mut self) -> tokenizers::Result<String> {
        self.stream = self.tokenizer.tokenizer.decode_stream(true);
        let mut text = String::new();
        for &id in &self.pending {
            text.extend(self.stream.step(id)?);
        }
        Ok(text)
    }

    /// The text that was still held back: what is left of a character that never became whole,
    /// as replacement characters.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TokenizerError> {
        if self.pending.is_empty() {
            return Ok(String::new());
        }
        let shown = self.tokenizer.decode(&self.shown)?;
        let all = self
            .tokenizer
            .decode(&[self.shown, self.pending.clone()].concat())?;
        match all.strip_prefix(&shown) {
            Some(rest) => Ok(rest.to_owned()),
            None => self.tokenizer.decode(&self.pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Words, and bytes for everything else, as SentencePiece models have them.
    fn tokenizer_json() -> Value {
        let mut vocab =
            json!({ "<unk>": 0, "<s>": 1, "</s>": 2, "\u{2581}deep": 3, "\u{2581}sea": 4 });
        for byte in 0..256 {
            vocab[format!("<0x{byte:02X}>")] = json!(5 + byte);
        }
        let special = |id: u32, content: &str| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        json!({
            "version": "1.0",
            "truncation": {
                "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
            },
            "padding": {
                "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"
            },
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    { "type": "Prepend", "prepend": "\u{2581}" },
                    { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" },
                ],
            },
            "pre_tokenizer": {
                "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never",
                "split": true,
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                ],
                "pair": [],
                "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                    { "type": "ByteFallback" },
                    { "type": "Fuse" },
                    { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
                ],
            },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "byte_fallback": true, "ignore_merges": true, "vocab": vocab, "merges": [],
            },
        })
    }

    fn tokenizer() -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Tokenizer::FILE);
        fs::write(path, tokenizer_json().to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap()
    }

    fn byte(byte: u8) -> u32 {
        5 + u32::from(byte)
    }

    #[test]
    fn text_is_encoded_whole_with_special_tokens_and_comes_back_without() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("deep deep sea").unwrap();
        assert_eq!(ids, [1, 3, 3, 4], "neither truncated to 2 nor padded to 8");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "deep deep sea");
    }

    #[test]
    fn a_continuation_has_no_special_tokens() {
        let tokenizer = tokenizer();
        assert_eq!(tokenizer.encode_continuation("deep sea").unwrap(), [3, 4]);
        assert!(tokenizer.encode_continuation("").unwrap().is_empty());
    }

    #[test]
    fn a_stream_gives_whole_characters_and_keeps_spaces() {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.decode_stream();
        let euro = "\u{20ac}".bytes().map(byte);
        let ids = [1, 3].into_iter().chain(euro).chain([4, 2]);
        let texts = ids.map(|id| stream.push(id).unwrap()).collect::<Vec<_>>();
        assert_eq!(texts, ["", "deep", "", "", "\u{20ac}", " sea", ""]);
        assert_eq!(stream.finish().unwrap(), "");
    }

    #[test]
    fn a_stream_that_ends_inside_a_character_says_so_at_the_end() {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.decode_stream();
        assert_eq!(stream.push(3).unwrap(), "deep");
        assert_eq!(stream.push(byte(0xe2)).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }

    #[test]
    fn bytes_that_are_not_text_do_not_end_a_stream() {
        let tokenizer = tokenizer();
        let mut stream = tokenizer.decode_stream();
        let mut text = String::new();
        // 'a' is given out before 0xc3 makes the run of bytes invalid.
        for id in [3, byte(b'a'), byte(0xc3), 4, 3, byte(b'b')] {
            text += &stream.push(id).unwrap();
        }
        assert_eq!(text + &stream.finish().unwrap(), "deepa\u{fffd} sea deepb");
    }

    #[test]
    fn files_that_are_no_tokenizer_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, TokenizerError::Read { .. }));
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        fs::write(dir.path().join(Tokenizer::FILE), "{\"model\": 7").unwrap();
        let error = Tokenizer::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, TokenizerError::Parse { .. }));
    }
}
