mod answers;
mod cache;
mod calls;
mod ends;
mod limits;
mod refusals;
mod time;
mod vocabulary;

use std::path::Path;

use super::{Grammar, GrammarCompiler, GrammarError};
use crate::{
    sampling::TokenMask,
    tokenizer::{
        Tokenizer,
        sentencepiece::{Piece, PieceKind, Pieces},
    },
};

/// Bytes that are merged, as GPT-2 has it; 1 ends a text.
fn byte_level() -> Tokenizer {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
    Tokenizer::from_dir(Path::new(dir)).unwrap()
}

/// Pieces of SentencePiece: `<unk>`, `<s>`, `</s>`, the bytes, characters and a few words with their spaces.
fn sentencepiece() -> Tokenizer {
    let piece = |text: &str, kind| Piece {
        text: text.to_owned(),
        score: -(text.len() as f32),
        kind,
    };
    let mut pieces = vec![
        piece("<unk>", PieceKind::Unknown),
        piece("<s>", PieceKind::Control),
        piece("</s>", PieceKind::Control),
    ];
    pieces.extend((0..=255u8).map(|byte| piece(&format!("<0x{byte:02X}>"), PieceKind::Byte)));
    let characters = (' '..='~').filter(|c| *c != ' ').map(|c| c.to_string());
    pieces.extend(characters.map(|text| piece(&text, PieceKind::Normal)));
    for text in [
        "\u{2581}",
        "\u{2581}the",
        "the",
        "\u{2581}\u{2581}",
        "\":\u{2581}\"",
        "\u{e9}",
    ] {
        pieces.push(piece(text, PieceKind::Normal));
    }
    let pieces = Pieces {
        pieces,
        add_space_prefix: true,
        before: Some(1),
        behind: None,
    };
    pieces.tokenizer().unwrap()
}

/// A tokenizer, tokens of its vocabulary, and the one that ends a text.
fn tokenizers() -> [(Tokenizer, usize, u32); 2] {
    let size = |tokenizer: &Tokenizer| {
        (0..)
            .take_while(|id| tokenizer.token(*id).is_some())
            .count()
    };
    let (first, second) = (byte_level(), sentencepiece());
    let sizes = [size(&first), size(&second)];
    [(first, sizes[0], 1), (second, sizes[1], 2)]
}

fn compiler() -> GrammarCompiler {
    let [(tokenizer, size, stop), _] = tokenizers();
    GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap()
}

fn is_allowed(words: &[u32], id: u32) -> bool {
    words
        .get(id as usize / 32)
        .is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Whether a matcher takes a text whole, token by token, and may end there.
fn takes(tokenizer: &Tokenizer, grammar: &Grammar, text: &str) -> bool {
    let mut matcher = grammar.matcher();
    // What follows a line break has no space of a beginning.
    let newline = tokenizer.encode_continuation("\n").unwrap();
    let ids = tokenizer.encode_continuation(&format!("\n{text}")).unwrap();
    for &id in &ids[newline.len()..] {
        if matcher.is_complete() || !is_allowed(&matcher.allowed().unwrap(), id) {
            return false;
        }
        matcher.accept(id).unwrap();
    }
    matcher.may_end().unwrap()
}

/// Whether a source is beyond the limits, and not tried or given up.
fn is_beyond(error: &GrammarError) -> bool {
    use GrammarError::{Depth, Size, TooComplex};
    matches!(error, Size { .. } | Depth { .. } | TooComplex { .. })
}
