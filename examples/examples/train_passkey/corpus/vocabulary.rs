use std::{fs, io, path::Path};

use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use thiserror::Error;
use tokenizers::{
    AddedToken, Tokenizer,
    models::{TrainerWrapper, bpe::BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

/// Why there is no vocabulary, or a text cannot be expressed in it.
#[derive(Error, Debug)]
pub(crate) enum VocabularyError {
    /// The tokenizer failed.
    #[error("vocabulary: {0}")]
    Tokenizer(tokenizers::Error),
    /// The file could not be read or written.
    #[error("vocabulary: {0}")]
    File(#[from] io::Error),
}

/// A byte-level BPE vocabulary, in which every digit is a token of its own.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    tokenizer: Tokenizer,
}

impl Vocabulary {
    const BEGIN: &str = "<s>";
    const END: &str = "</s>";
    const SAMPLES: u64 = 40;

    /// Learns a vocabulary of at most `size` tokens from the corpus.
    ///
    /// # Errors
    ///
    /// When the tokenizer's trainer fails.
    pub(crate) fn train(size: usize, seed: u64) -> Result<Self, VocabularyError> {
        let text = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Digits", "individual_digits": true },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                  "use_regex": true },
            ]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{ "SpecialToken": { "id": Self::BEGIN, "type_id": 0 } },
                           { "Sequence": { "id": "A", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } },
                         { "Sequence": { "id": "B", "type_id": 1 } }],
                "special_tokens": {
                    Self::BEGIN: { "id": Self::BEGIN, "ids": [0], "tokens": [Self::BEGIN] },
                },
            },
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                         "use_regex": true },
            "model": { "type": "BPE", "vocab": {}, "merges": [] },
        })
        .to_string();
        let mut tokenizer = Tokenizer::from_bytes(text).map_err(VocabularyError::Tokenizer)?;
        let special = [Self::BEGIN, Self::END].map(|token| AddedToken::from(token, true));
        let trainer = BpeTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .special_tokens(special.to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let samples = (0..Self::SAMPLES)
            .map(|index| super::sample(&mut StdRng::seed_from_u64(seed ^ index)))
            .collect::<Vec<_>>();
        tokenizer
            .train(
                &mut TrainerWrapper::BpeTrainer(trainer),
                samples.into_iter(),
            )
            .map_err(VocabularyError::Tokenizer)?;
        Ok(Self { tokenizer })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// When the file is absent or not a tokenizer.
    pub(crate) fn load(path: &Path) -> Result<Self, VocabularyError> {
        let tokenizer = Tokenizer::from_bytes(fs::read(path)?);
        let tokenizer = tokenizer.map_err(VocabularyError::Tokenizer)?;
        Ok(Self { tokenizer })
    }

    /// Writes a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), VocabularyError> {
        let text = self.tokenizer.to_string(false);
        fs::write(path, text.map_err(VocabularyError::Tokenizer)?)?;
        Ok(())
    }

    /// Token ids of a stretch of text, nothing added.
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, VocabularyError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(VocabularyError::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, special tokens left out.
    ///
    /// # Errors
    ///
    /// When the decoder fails.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, VocabularyError> {
        let text = self.tokenizer.decode(ids, true);
        text.map_err(VocabularyError::Tokenizer)
    }

    /// The token that begins a text.
    pub(crate) fn begin(&self) -> u32 {
        self.id(Self::BEGIN)
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    fn id(&self, token: &str) -> u32 {
        let id = self.tokenizer.token_to_id(token);
        id.expect("the special tokens are part of every vocabulary that was trained here")
    }
}
