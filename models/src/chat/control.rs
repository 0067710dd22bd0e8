//! Control tokens in the texts of others are text.

use minijinja::{Value, value::ValueKind};

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Before and after a control token in what the template is given. Both are noncharacters of
/// Unicode, which are for use within a program.
const START: char = '\u{FDD0}';
const END: char = '\u{FDD1}';

/// Tokens whose text structures a prompt.
pub(super) struct ControlTokens {
    /// Texts and ids, longer texts first.
    tokens: Vec<(String, u32)>,
    /// First bytes of the texts.
    first: [bool; 256],
}

impl ControlTokens {
    /// The special tokens of a tokenizer, and those of its other added tokens that the template
    /// contains, but for white space.
    pub(super) fn new(tokenizer: &Tokenizer, template: &str) -> Self {
        let mut tokens = tokenizer
            .added_tokens()
            .into_iter()
            .filter(|token| {
                let is_written = || !token.text.trim().is_empty() && template.contains(&token.text);
                !token.text.is_empty() && (token.is_special || is_written())
            })
            .map(|token| (token.text, token.id))
            .collect::<Vec<_>>();
        tokens.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        let mut first = [false; 256];
        for (text, _) in &tokens {
            first[usize::from(text.as_bytes()[0])] = true;
        }
        Self { tokens, first }
    }

    /// The control token that a text begins with.
    pub(super) fn leading(&self, text: &str) -> Option<u32> {
        self.token_at(text).map(|(_, id)| id)
    }

    fn token_at(&self, text: &str) -> Option<(&str, u32)> {
        let first = text.as_bytes().first()?;
        if !self.first[usize::from(*first)] {
            return None;
        }
        let mut tokens = self.tokens.iter();
        let token = tokens.find(|(token, _)| text.starts_with(&**token));
        token.map(|(token, id)| (&**token, *id))
    }

    /// A value whose texts have marks around control tokens, those of keys too: a template asks for none that has
    /// a control token in it.
    pub(super) fn mark(&self, value: &Value) -> Value {
        match value.kind() {
            ValueKind::String => match value.as_str() {
                Some(text) => self.mark_text(text).into(),
                None => value.clone(),
            },
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter().into_iter().flatten();
                items
                    .map(|item| self.mark(&item))
                    .collect::<Vec<_>>()
                    .into()
            }
            ValueKind::Map => {
                let keys = value.try_iter().into_iter().flatten();
                let entries = keys.map(|key| {
                    let item = value.get_item(&key).unwrap_or_default();
                    (self.mark(&key), self.mark(&item))
                });
                Value::from_pairs(entries)
            }
            _ => value.clone(),
        }
    }

    fn mark_text(&self, text: &str) -> String {
        // Marks in the text itself would forge marked tokens.
        let text = text.replace([START, END], "");
        let mut out = String::with_capacity(text.len());
        let mut rest = &*text;
        while let Some(at) = rest.bytes().position(|byte| self.first[usize::from(byte)]) {
            // The first byte of a token is that of a character.
            let (before, tail) = rest.split_at(at);
            out.push_str(before);
            rest = match self.token_at(tail) {
                Some((token, _)) => {
                    out.push(START);
                    out.push_str(token);
                    out.push(END);
                    &tail[token.len()..]
                }
                None => {
                    let mut chars = tail.chars();
                    out.extend(chars.next());
                    chars.as_str()
                }
            };
        }
        out + rest
    }

    /// Ids of a text with marks.
    ///
    /// A template may part marks from their token, as by `split`. Such marks are dropped, but text
    /// on either side stays apart.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let mut is_first = true;
        let mut rest = text;
        loop {
            let (piece, tail) = match rest.find([START, END]) {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            ids.extend(match is_first {
                true => tokenizer.encode_continuation(piece)?,
                false => after_newline(tokenizer, piece, Tokenizer::encode_continuation)?,
            });
            is_first = false;
            let Some(mark) = tail.chars().next() else {
                return Ok(ids);
            };
            rest = &tail[mark.len_utf8()..];
            let token = match mark {
                START => self.token_at(rest),
                _ => None,
            };
            if let Some((token, id)) = token
                && let Some(after) = rest[token.len()..].strip_prefix(END)
            {
                ids.extend(as_text(tokenizer, token, id)?);
                rest = after;
            }
        }
    }
}

/// Ids of a text whose special tokens are text, with what the tokenizer puts before and behind a text or without.
///
/// # Errors
///
/// When the text cannot be encoded.
pub fn encode_text(
    tokenizer: &Tokenizer,
    text: &str,
    special_tokens: bool,
) -> Result<Vec<u32>, TokenizerError> {
    let control = ControlTokens::new(tokenizer, "");
    let marked = control.mark_text(text);
    if !marked.contains(START) {
        return match special_tokens {
            true => tokenizer.encode(text),
            false => tokenizer.encode_continuation(text),
        };
    }
    let ids = control.encode(tokenizer, &marked)?;
    if !special_tokens {
        return Ok(ids);
    }
    // What is around a text does not depend on it.
    let (whole, inner) = (tokenizer.encode("a")?, tokenizer.encode_continuation("a")?);
    let mut places = whole.windows(inner.len().max(1));
    Ok(match places.position(|ids| ids == inner) {
        Some(at) => [&whole[..at], &ids, &whole[at + inner.len()..]].concat(),
        None => ids,
    })
}

/// Ids of a control token's text, none of which is the token.
fn as_text(tokenizer: &Tokenizer, token: &str, id: u32) -> Result<Vec<u32>, TokenizerError> {
    let whole = after_newline(tokenizer, token, Tokenizer::encode_plain)?;
    if !whole.contains(&id) {
        return Ok(whole);
    }
    // The token is one of the model's vocabulary too.
    let mut ids = Vec::new();
    for c in token.chars() {
        ids.extend(after_newline(
            tokenizer,
            c.encode_utf8(&mut [0; 4]),
            Tokenizer::encode_plain,
        )?);
    }
    Ok(ids)
}

/// Ids of a text that is not the first one. After a line break, because SentencePiece's tokenizers
/// begin a text with a space.
fn after_newline(
    tokenizer: &Tokenizer,
    text: &str,
    encode: fn(&Tokenizer, &str) -> Result<Vec<u32>, TokenizerError>,
) -> Result<Vec<u32>, TokenizerError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let newline = encode(tokenizer, "\n")?;
    let ids = encode(tokenizer, &format!("\n{text}"))?;
    match ids.strip_prefix(&newline[..]) {
        Some(ids) => Ok(ids.to_vec()),
        None => encode(tokenizer, text),
    }
}
