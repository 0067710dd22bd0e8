use std::fs;

use super::*;

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend(bytes);
}

fn number(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

/// The pieces of a small model, with the number of their kind.
fn pieces() -> Vec<(String, f32, u64)> {
    let mut pieces = vec![
        ("<unk>".to_owned(), 0.0, 2),
        ("<s>".to_owned(), 0.0, 3),
        ("</s>".to_owned(), 0.0, 3),
    ];
    pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    let words = ["\u{2581}a", "ab", "\u{2581}ab", "\u{2581}", "a", "b"];
    let words = words.iter().zip(0..);
    pieces.extend(words.map(|(word, rank)| ((*word).to_owned(), -(rank as f32), 1)));
    pieces
}

fn model(model_type: u64, add_space_prefix: bool) -> Vec<u8> {
    let mut file = Vec::new();
    for (text, score, kind) in pieces() {
        let mut piece = Vec::new();
        field(1, text.as_bytes(), &mut piece);
        varint(2 << 3 | 5, &mut piece);
        piece.extend(score.to_le_bytes());
        number(3, kind, &mut piece);
        field(1, &piece, &mut file);
    }
    let mut trainer = Vec::new();
    number(3, model_type, &mut trainer);
    field(2, &trainer, &mut file);
    let mut normalizer = Vec::new();
    number(3, add_space_prefix.into(), &mut normalizer);
    field(3, &normalizer, &mut file);
    file
}

fn read(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), bytes).unwrap();
    Tokenizer::from_dir(dir.path())
}

const FIRST: u32 = 3 + 256;

#[test]
fn pieces_are_merged_by_their_scores() {
    let tokenizer = read(&model(2, true)).unwrap();
    // "▁ab": "▁a" has the better score, so "▁" and "a" are merged before "a" and "b" are.
    assert_eq!(tokenizer.encode("ab").unwrap(), [1, FIRST + 2]);
    assert_eq!(tokenizer.encode("aab").unwrap(), [1, FIRST, FIRST + 1]);
    assert_eq!(tokenizer.decode(&[1, FIRST, FIRST + 1]).unwrap(), "aab");
}

#[test]
fn what_is_in_no_piece_becomes_bytes() {
    let tokenizer = read(&model(2, false)).unwrap();
    let euro = "\u{20ac}".bytes().map(|byte| 3 + u32::from(byte));
    let expected = [1, FIRST + 4].into_iter().chain(euro).collect::<Vec<_>>();
    assert_eq!(tokenizer.encode("a\u{20ac}").unwrap(), expected);
    assert_eq!(tokenizer.decode(&expected).unwrap(), "a\u{20ac}");
    assert_eq!(tokenizer.encode("<s>a").unwrap(), [1, FIRST + 4]);
}

#[test]
fn models_of_another_kind_are_refused() {
    let error = read(&model(1, true)).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.model: expected a model of SentencePiece"),
        "{error}"
    );
    assert!(error.contains("found one of type 1"), "{error}");
}

/// Cut or changed anywhere, it is a tokenizer or an error.
#[test]
fn garbled_models_do_not_panic() {
    // Not written to files, which takes longer than all else.
    let (path, whole) = (Path::new(FILE), model(2, true));
    for place in (0..whole.len()).step_by(7) {
        // The description of the training is behind the pieces.
        let cut = from_bytes(path, &whole[..place]);
        assert!(cut.is_err() || place > whole.len() - 10);
        let mut garbled = whole.clone();
        garbled[place] ^= 1 << (place % 8);
        if let Ok(tokenizer) = from_bytes(path, &garbled) {
            let _ = tokenizer.encode("ab \u{20ac}");
        }
    }
}
