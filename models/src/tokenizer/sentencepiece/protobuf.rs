//! The few fields of SentencePiece's `ModelProto` that a tokenizer needs.

use super::{Piece, PieceKind, Pieces};

/// Model types of a `TrainerSpec`.
const BPE: u64 = 2;

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Four([u8; 4]),
    Eight,
}

/// Reads a `ModelProto`.
pub(super) fn parse(bytes: &[u8]) -> Result<Pieces, String> {
    let mut pieces = Vec::new();
    // Defaults of the format.
    let (mut model_type, mut bos, mut add_space_prefix) = (1, 1i32, true);
    let mut has_trainer = false;
    each(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(piece)) => pieces.push(self::piece(piece)?),
            (2, Field::Bytes(trainer)) => {
                has_trainer = true;
                each(trainer, |number, field| {
                    match (number, field) {
                        (3, Field::Number(kind)) => model_type = kind,
                        (41, Field::Number(id)) => bos = id as i32,

                        _ => {}
                    }
                    Ok(())
                })?;
            }
            (3, Field::Bytes(normalizer)) => each(normalizer, |number, field| {
                if let (3, Field::Number(add)) = (number, field) {
                    add_space_prefix = add != 0;
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    if pieces.is_empty() || !has_trainer {
        return Err(format!(
            "found one of {} pieces without a description of how it was trained (give a tokenizer.json)",
            pieces.len()
        ));
    }
    if model_type != BPE {
        return Err(format!(
            "found one of type {model_type}; supported: 2, BPE (give a tokenizer.json)"
        ));
    }
    let id = |id: i32| {
        u32::try_from(id)
            .ok()
            .filter(|id| (*id as usize) < pieces.len())
    };
    let before = id(bos);
    Ok(Pieces {
        pieces,
        add_space_prefix,
        // Llama's tokenizers begin a text and do not end it.
        before,
        behind: None,
    })
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: PieceKind::Normal,
    };
    each(bytes, |number, field| {
        match (number, field) {
            (1, Field::Bytes(text)) => piece.text = String::from_utf8_lossy(text).into_owned(),
            (2, Field::Four(score)) => piece.score = f32::from_le_bytes(score),
            (3, Field::Number(kind)) => {
                let found = PieceKind::from_number(kind as i64);
                piece.kind = found.ok_or_else(|| format!("found a piece of kind {kind}"))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(piece)
}

/// Calls `visit` with each field of a message.
fn each<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(u64, Field<'a>) -> Result<(), String>,
) -> Result<(), String> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => {
                take(&mut bytes, 8)?;
                Field::Eight
            }
            2 => {
                let length = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, length)?)
            }
            5 => {
                let four = take(&mut bytes, 4)?;
                Field::Four([four[0], four[1], four[2], four[3]])
            }
            kind => return Err(format!("found a field of kind {kind}")),
        };
        visit(key >> 3, field)?;
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("found a number of more than 64 bits".into())
}

fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Result<&'a [u8], String> {
    let n = usize::try_from(n).ok().filter(|n| *n <= bytes.len());
    let n = n.ok_or("found a truncated or garbled file")?;
    let (taken, rest) = bytes.split_at(n);
    *bytes = rest;
    Ok(taken)
}
