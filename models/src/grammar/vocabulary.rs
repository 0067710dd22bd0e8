//! The bytes that the tokens of a vocabulary stand for.

use serde_json::Value;
use toktrie::{TokRxInfo, TokTrie};

use super::GrammarError;
use crate::tokenizer::Tokenizer;

/// Tokens of more bytes than this are never chosen: the tree of tokens is no deeper.
const MAX_TOKEN_BYTES: usize = 1000;

/// Bytes of each token of a model with `vocab_size` tokens; none for tokens without text.
pub(super) fn token_bytes(
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Vec<Vec<u8>>, GrammarError> {
    let json = tokenizer.to_json();
    let json = json.map_err(|error| GrammarError::Tokenizer(error.to_string()))?;
    let json = serde_json::from_str::<Value>(&json)
        .map_err(|error| GrammarError::Tokenizer(error.to_string()))?;
    let decoder = Decoding::of(&json["decoder"])?;
    let mut bytes = (0..vocab_size as u32)
        .map(|id| match tokenizer.token(id) {
            Some(token) => decoder.bytes(&token),
            None => Vec::new(),
        })
        .collect::<Vec<_>>();
    for token in tokenizer.added_tokens() {
        let Some(bytes) = bytes.get_mut(token.id as usize) else {
            continue;
        };
        *bytes = match token.is_special {
            true => special(token.text.as_bytes()),
            false => token.text.into_bytes(),
        };
    }
    for bytes in &mut bytes {
        if bytes.len() > MAX_TOKEN_BYTES {
            bytes.clear();
        }
    }
    Ok(bytes)
}

/// The tree of the tokens, of which `stop_ids` end an answer.
pub(super) fn tree(mut tokens: Vec<Vec<u8>>, stop_ids: &[u32]) -> TokTrie {
    let ids = stop_ids.iter().copied();
    let mut ids = ids
        .filter(|id| (*id as usize) < tokens.len())
        .collect::<Vec<_>>();
    if ids.is_empty() {
        // The tree needs one. Nothing chooses a token behind the vocabulary.
        ids.push(tokens.len() as u32);
        tokens.push(special(b"<end>"));
    }
    let info = TokRxInfo::new(tokens.len() as u32, ids[0]);
    TokTrie::from(&info, &tokens).with_eos_tokens(&ids)
}

/// How no text is written, so that no grammar's text is such a token.
fn special(text: &[u8]) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], text].concat()
}

/// What a tokenizer's decoder makes of a single token within a text.
#[derive(Default)]
struct Decoding {
    /// Characters stand for bytes, as in GPT-2.
    is_byte_level: bool,
    /// `<0x0A>` is a byte.
    has_bytes: bool,
    /// Texts that become others, such as the marker of a space.
    replaced: Vec<(String, String)>,
}

impl Decoding {
    fn of(decoder: &Value) -> Result<Self, GrammarError> {
        let mut decoding = Self::default();
        decoding.add(decoder)?;
        Ok(decoding)
    }

    fn add(&mut self, decoder: &Value) -> Result<(), GrammarError> {
        let text = |name: &str| decoder[name].as_str().unwrap_or_default();
        match text("type") {
            "Sequence" => {
                let decoders = decoder["decoders"].as_array();
                decoders
                    .into_iter()
                    .flatten()
                    .try_for_each(|decoder| self.add(decoder))?;
            }
            "ByteLevel" => self.is_byte_level = true,
            "ByteFallback" => self.has_bytes = true,
            "Metaspace" => {
                let replacement = decoder["replacement"].as_str().unwrap_or("\u{2581}");
                self.replaced.push((replacement.to_owned(), " ".to_owned()));
            }
            "Replace" => {
                // Regular expressions take spaces off the ends of a text.
                if let Some(pattern) = decoder["pattern"]["String"].as_str() {
                    let content = text("content").to_owned();
                    self.replaced.push((pattern.to_owned(), content));
                }
            }
            // They join tokens, and take a space off the beginning of a text.
            "Fuse" | "Strip" => (),
            other => {
                let found = match other {
                    "" => "none",
                    other => other,
                };
                return Err(GrammarError::Tokenizer(format!(
                    "expected a decoder whose tokens have bytes of their own (ByteLevel, ByteFallback, \
                     Metaspace, Replace), found {found}"
                )));
            }
        }
        Ok(())
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.has_bytes
            && let Some(byte) = byte(token)
        {
            return vec![byte];
        }
        let mut token = token.to_owned();
        for (from, to) in &self.replaced {
            token = token.replace(from, to);
        }
        if !self.is_byte_level {
            return token.into_bytes();
        }
        let bytes = token.chars().map(byte_of).collect::<Option<Vec<_>>>();
        // As the decoder has it: such a token stands for its text.
        bytes.unwrap_or_else(|| token.into_bytes())
    }
}

/// The byte of a token such as `<0x0A>`.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// The byte that a character stands for in vocabularies like GPT-2's: itself where it can be seen, and
/// characters from 256 on, in order, for the other bytes.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        // 0 to 32, 127 to 160, and 173.
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 127) as u8),
        0x143 => Some(173),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_byte_has_one_character_of_byte_level_vocabularies() {
        let bytes = (0x21..=0x143)
            .filter_map(char::from_u32)
            .filter_map(byte_of);
        let mut bytes = bytes.collect::<Vec<_>>();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<_>>());
        assert_eq!(
            [byte_of('\u{120}'), byte_of('\u{10a}')],
            [Some(b' '), Some(b'\n')]
        );
        assert_eq!(byte_of('\u{4e2d}'), None);
    }

    #[test]
    fn sentencepiece_tokens_have_spaces_and_bytes() {
        let decoder = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] });
        let decoding = Decoding::of(&decoder).unwrap();
        assert_eq!(
            decoding.bytes("\u{2581}a\u{2581}\u{e9}"),
            " a \u{e9}".as_bytes()
        );
        assert_eq!(decoding.bytes("<0xE9>"), [0xe9]);
        assert_eq!(decoding.bytes("<0xE9F>"), b"<0xE9F>");
    }

    #[test]
    fn a_decoder_whose_tokens_have_no_bytes_is_named() {
        let error = Decoding::of(&json!({ "type": "WordPiece" })).err().unwrap();
        assert!(error.to_string().ends_with("found WordPiece"), "{error}");
        let error = Decoding::of(&Value::Null).err().unwrap();
        assert!(error.to_string().ends_with("found none"), "{error}");
    }
}
