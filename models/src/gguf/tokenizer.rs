//! The tokenizer in a GGUF file's metadata.

use std::collections::HashSet;

use tokenizers::{
    AddedToken,
    models::bpe::{BPE, Merges, Vocab},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{metadata::Metadata, pre_tokenizers};
use crate::{
    chat::{ChatTemplates, SpecialTokens},
    error::ModelError,
    tokenizer::{
        Tokenizer, TokenizerError, add_tokens, caught,
        sentencepiece::{Piece, PieceKind, Pieces},
    },
};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Texts of tokens that end a turn; files name one of them as EOS, while models may use another.
const ENDS: [&str; 12] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|EOT|>",
    "<EOT>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<|eos|>",
    "<|return|>",
];

/// The tokenizer; none where the file has no tokens.
pub(super) fn read(metadata: &Metadata) -> Result<Option<Tokenizer>, TokenizerError> {
    let Some(model) = metadata.text(MODEL)? else {
        return Ok(None);
    };
    let tokens = Tokens::read(metadata)?;
    let tokenizer = match model {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentence_piece(metadata, &tokens)?,
        // What llama.cpp writes for a model without a tokenizer.
        "none" | "no_vocab" => return Ok(None),
        other => {
            return Err(metadata
                .unsupported("tokenizer model", other, "gpt2, llama")
                .into());
        }
    };
    Ok(Some(tokenizer))
}

/// The chat templates, where the file has any.
pub(super) fn chat_templates(metadata: &Metadata) -> Result<Option<ChatTemplates>, ModelError> {
    let mut templates = Vec::new();
    if let Some(template) = metadata.text(TEMPLATE)? {
        templates.push((ChatTemplates::DEFAULT.to_owned(), template.to_owned()));
    }
    // Others are at `tokenizer.chat_template.<name>`.
    for (key, _) in metadata.iter() {
        let name = key
            .strip_prefix(TEMPLATE)
            .and_then(|rest| rest.strip_prefix('.'));
        let Some(name) = name else { continue };
        if let Some(template) = metadata.text(key)? {
            templates.push((name.to_owned(), template.to_owned()));
        }
    }
    let origin = metadata.path().display().to_string();
    Ok((!templates.is_empty()).then(|| ChatTemplates::named(origin, templates)))
}

/// The special tokens that chat templates name.
pub(super) fn special_tokens(metadata: &Metadata) -> Result<SpecialTokens, ModelError> {
    let texts = metadata.texts(TOKENS)?.unwrap_or_default();
    let mut special = SpecialTokens::default();
    for (name, part) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ] {
        let id = metadata.id(&format!("tokenizer.ggml.{part}_token_id"))?;
        if let Some(text) = id.and_then(|id| texts.get(id as usize)) {
            special = special.with(name, text.clone());
        }
    }
    Ok(special)
}

/// Tokens that end a text: those that the file names, and those that are known to end a turn.
pub(super) fn stop_ids(metadata: &Metadata) -> Result<Vec<u32>, ModelError> {
    let mut ids = Vec::new();
    for part in ["eos", "eot", "eom"] {
        ids.extend(metadata.id(&format!("tokenizer.ggml.{part}_token_id"))?);
    }
    let texts = metadata.texts(TOKENS)?.unwrap_or_default();
    let kinds = metadata.integers(KINDS)?.unwrap_or_default();
    for (id, text) in texts.iter().enumerate() {
        let is_control = kinds.get(id).is_some_and(|kind| *kind == 3);
        if is_control && ENDS.contains(&text.as_str()) {
            ids.push(id as u32);
        }
    }
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    Ok(ids)
}

/// The tokens of a file, checked against each other.
struct Tokens<'a> {
    texts: &'a [String],
    kinds: Vec<PieceKind>,
    before: Option<u32>,
    behind: Option<u32>,
    add_bos: Option<bool>,
    add_eos: bool,
}

impl<'a> Tokens<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self, ModelError> {
        let texts = metadata.required(TOKENS, Metadata::texts)?;
        let numbers = metadata.integers(KINDS)?;
        if let Some(numbers) = numbers.filter(|numbers| numbers.len() != texts.len()) {
            return Err(metadata.invalid(KINDS, of_all(texts.len(), numbers.len())));
        }
        let kinds = numbers.unwrap_or_default().iter().map(|number| {
            // Zero is what a file says of a token that it knows nothing of.
            let kind = PieceKind::from_number((*number).max(1));
            kind.ok_or_else(|| metadata.invalid(KINDS, format!("expected 1 to 6, found {number}")))
        });
        let mut kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        kinds.resize(texts.len(), PieceKind::Normal);
        let id = |key: &str| {
            let id = metadata.id(key)?;
            match id.filter(|id| *id as usize >= texts.len()) {
                None => Ok(id),
                Some(id) => {
                    let problem = format!("expected one of {} tokens, found {id}", texts.len());
                    Err(metadata.invalid(key, problem))
                }
            }
        };
        Ok(Self {
            texts,
            kinds,
            before: id("tokenizer.ggml.bos_token_id")?,
            behind: id("tokenizer.ggml.eos_token_id")?,
            add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata
                .bool("tokenizer.ggml.add_eos_token")?
                .unwrap_or(false),
        })
    }

    /// Tokens that a text begins and ends with.
    fn around(&self, add_bos_by_default: bool) -> (Option<u32>, Option<u32>) {
        let add_bos = self.add_bos.unwrap_or(add_bos_by_default);
        let before = self.before.filter(|_| add_bos);
        (before, self.behind.filter(|_| self.add_eos))
    }
}

/// Bytes that are merged, as GPT-2 has it.
fn byte_level(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Tokenizer, TokenizerError> {
    let pre = metadata.text(PRE)?.unwrap_or("none");
    let pre = pre_tokenizers::find(pre).ok_or_else(|| TokenizerError::Unsupported {
        path: metadata.path().into(),
        problem: format!(
            "unsupported pre-tokenizer (`{PRE}`) `{pre}`: another one would give other tokens; \
             supported: {}",
            pre_tokenizers::names()
        ),
    })?;
    let mut vocab = Vocab::default();
    for (text, id) in tokens.texts.iter().zip(0..) {
        if let Some(other) = vocab.insert(text.clone(), id) {
            let problem = format!("expected token `{text}` once, found it as {other} and {id}");
            return Err(metadata.invalid(TOKENS, problem).into());
        }
    }
    let merges = metadata.required(MERGES, Metadata::texts)?;
    let merges = merges.iter().map(|merge| {
        // Spaces are other characters in these vocabularies.
        let pair = merge.split_once(' ');
        let pair = pair.map(|(left, right)| (left.to_owned(), right.to_owned()));
        let invalid = || metadata.invalid(MERGES, format!("expected two tokens, found `{merge}`"));
        pair.ok_or_else(invalid)
    });
    let merges = merges.collect::<Result<Merges, _>>()?;
    let (before, behind) = tokens.around(pre.add_bos);
    let tokenizer = caught(|| {
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(pre.ignore_merges)
            .build()?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        if let Some(normalizer) = pre.normalizer() {
            tokenizer.with_normalizer(Some(normalizer))?;
        }
        tokenizer.with_pre_tokenizer(Some(pre.init()?));
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        let added = tokens.texts.iter().zip(&tokens.kinds);
        let added = added.filter_map(|(text, kind)| match kind {
            PieceKind::Control | PieceKind::Unknown => Some(AddedToken::from(text.clone(), true)),
            PieceKind::UserDefined => Some(AddedToken::from(text.clone(), false).normalized(false)),
            PieceKind::Normal | PieceKind::Unused | PieceKind::Byte => None,
        });
        tokenizer.add_tokens(added)?;
        let token = |id: Option<u32>| Some((tokens.texts[id? as usize].clone(), id?));
        add_tokens(&mut tokenizer, token(before), token(behind))?;
        Tokenizer::new(tokenizer)
    });
    tokenizer.map_err(|source| garbled(metadata, source))
}

/// Pieces of SentencePiece that are merged by their scores.
fn sentence_piece(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Tokenizer, TokenizerError> {
    let scores = metadata.required(SCORES, Metadata::numbers)?;
    if scores.len() != tokens.texts.len() {
        let problem = of_all(tokens.texts.len(), scores.len());
        return Err(metadata.invalid(SCORES, problem).into());
    }
    let pieces = tokens.texts.iter().zip(scores).zip(&tokens.kinds);
    let (before, behind) = tokens.around(true);
    let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?;
    let pieces = Pieces {
        pieces: pieces
            .map(|((text, score), kind)| Piece {
                text: text.clone(),
                score,
                kind: *kind,
            })
            .collect(),
        add_space_prefix: add_space_prefix.unwrap_or(true),
        before,
        behind,
    };
    caught(|| pieces.tokenizer()).map_err(|source| garbled(metadata, source))
}

fn garbled(metadata: &Metadata, source: tokenizers::Error) -> TokenizerError {
    TokenizerError::Unsupported {
        path: metadata.path().into(),
        problem: format!("the tokenizer makes no sense: {source}"),
    }
}

fn of_all(expected: usize, found: usize) -> String {
    format!("expected one for each of the {expected} tokens, found {found}")
}
