//! Tokenizers of SentencePiece: pieces with scores, as `tokenizer.model` and GGUF files have them.

use std::path::Path;

use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence, strip::Strip},
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{Prepend, Replace, Sequence},
};

use super::{Tokenizer, TokenizerError, added, caught::caught};
use crate::source::read_file;

mod protobuf;

/// The name of SentencePiece's file.
pub(crate) const FILE: &str = "tokenizer.model";

/// What stands for a space.
const SPACE: &str = "\u{2581}";

/// A vocabulary of SentencePiece.
pub(crate) struct Pieces {
    /// The pieces, by id.
    pub pieces: Vec<Piece>,
    /// Whether a text begins with a space in any case.
    pub add_space_prefix: bool,
    /// Ids of tokens that a text begins and ends with.
    pub before: Option<u32>,
    pub behind: Option<u32>,
}

pub(crate) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

/// What a piece is, numbered as in SentencePiece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl PieceKind {
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Reads `tokenizer.model`.
pub(crate) fn read(path: &Path) -> Result<Tokenizer, TokenizerError> {
    from_bytes(path, &read_file(path)?)
}

/// The tokenizer that the bytes of a file stand for.
fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let unsupported = |problem: String| TokenizerError::Unsupported {
        path: path.into(),
        problem,
    };
    let pieces = protobuf::parse(bytes)
        .map_err(|problem| unsupported(format!("expected a model of SentencePiece, {problem}")))?;
    let tokenizer = caught(|| pieces.tokenizer());
    tokenizer.map_err(|error| unsupported(error.to_string()))
}

impl Pieces {
    /// A tokenizer that merges pieces in the order of their scores, with bytes for what is in none.
    pub(crate) fn tokenizer(self) -> tokenizers::Result<Tokenizer> {
        let vocab = self.vocab()?;
        let unknown = self.pieces.iter().find(|p| p.kind == PieceKind::Unknown);
        let builder = BPE::builder()
            .vocab_and_merges(vocab.clone(), self.merges(&vocab))
            .byte_fallback(self.pieces.iter().any(|p| p.kind == PieceKind::Byte))
            .fuse_unk(true);
        let builder = match unknown {
            Some(unknown) => builder.unk_token(unknown.text.clone()),
            None => builder,
        };
        let mut tokenizer = tokenizers::Tokenizer::new(builder.build()?);
        let spaces = NormalizerWrapper::from(Replace::new(" ", SPACE)?);
        let normalizer = match self.add_space_prefix {
            true => Sequence::new(vec![Prepend::new(SPACE.into()).into(), spaces]).into(),
            false => spaces,
        };
        tokenizer.with_normalizer(Some(normalizer))?;
        let mut decoders: Vec<DecoderWrapper> = vec![
            Replace::new(SPACE, " ")?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if self.add_space_prefix {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        tokenizer.with_decoder(Some(sequence::Sequence::new(decoders)));
        let added = self.pieces.iter().filter_map(|piece| match piece.kind {
            PieceKind::Control | PieceKind::Unknown => {
                Some(AddedToken::from(piece.text.clone(), true))
            }
            PieceKind::UserDefined => {
                Some(AddedToken::from(piece.text.clone(), false).normalized(false))
            }
            PieceKind::Normal | PieceKind::Unused | PieceKind::Byte => None,
        });
        tokenizer.add_tokens(added)?;
        let token = |id: Option<u32>| {
            let piece = self.pieces.get(id? as usize)?;
            Some((piece.text.clone(), id?))
        };
        added::add(&mut tokenizer, token(self.before), token(self.behind))?;
        Tokenizer::new(tokenizer)
    }

    fn vocab(&self) -> tokenizers::Result<Vocab> {
        let mut vocab = Vocab::default();
        for (id, piece) in self.pieces.iter().enumerate() {
            if let Some(other) = vocab.insert(piece.text.clone(), id as u32) {
                let text = &piece.text;
                return Err(format!("the piece `{text}` is both {other} and {id}").into());
            }
        }
        Ok(vocab)
    }

    /// Every way to put a piece together from two others: better pieces first, and of one piece the
    /// parts that come first in the vocabulary. This is the order in which SentencePiece merges.
    fn merges(&self, vocab: &Vocab) -> Merges {
        let mut merges = Vec::new();
        for piece in &self.pieces {
            if matches!(
                piece.kind,
                PieceKind::Control | PieceKind::Unknown | PieceKind::Byte
            ) {
                continue;
            }
            let text = &piece.text;
            let places = text.char_indices().skip(1).map(|(place, _)| place);
            let mut pairs = places
                .filter_map(|place| {
                    let (left, right) = text.split_at(place);
                    Some(((*vocab.get(left)?, *vocab.get(right)?), (left, right)))
                })
                .collect::<Vec<_>>();
            pairs.sort_by_key(|(ids, _)| *ids);
            merges.extend(pairs.into_iter().map(|(_, pair)| (piece.score, pair)));
        }
        let lengths = |pair: &(&str, &str)| (pair.0.chars().count(), pair.1.chars().count());
        // Of equal scores, longer parts first, as transformers' converter has it.
        merges.sort_by(|(a, first), (b, second)| {
            b.total_cmp(a)
                .then_with(|| lengths(second).cmp(&lengths(first)))
        });
        let merges = merges.into_iter();
        merges
            .map(|(_, (left, right))| (left.to_owned(), right.to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
