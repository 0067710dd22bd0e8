use crate::tokenizer::{DecodeStream, Tokenizer, TokenizerError};

/// New ids as text, in whole characters, up to the first of some stop strings.
///
/// The text goes on from what the ids before it mean: a word that follows another keeps its space,
/// and a character whose first bytes are among them comes out whole.
///
/// ```
/// # use quest_burn_models::{generation::TextDecoder, tokenizer::Tokenizer};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
/// let tokenizer = Tokenizer::from_dir(dir.as_ref())?;
/// let before = tokenizer.encode("The grass is")?;
/// let new = tokenizer.encode_continuation(" green. The sky")?;
///
/// let mut decoder = TextDecoder::new(&tokenizer, &before, vec![".".into()])?;
/// let mut text = String::new();
/// for id in new {
///     text += &decoder.push(id)?;
/// }
/// assert!(decoder.is_stopped());
/// assert_eq!(text, " green");
/// # Ok(())
/// # }
/// ```
pub struct TextDecoder<'a> {
    stream: DecodeStream<'a>,
    stop: StopStrings,
}

impl<'a> TextDecoder<'a> {
    /// A decoder of what follows `before`.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn new(
        tokenizer: &'a Tokenizer,
        before: &[u32],
        stop_strings: Vec<String>,
    ) -> Result<Self, TokenizerError> {
        Ok(Self {
            stream: tokenizer.decode_stream_after(before)?,
            stop: StopStrings::new(stop_strings),
        })
    }

    /// The text that becomes known with the next id. It is empty while a character or what may be a
    /// stop string is not whole, and once a stop string was.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        if self.stop.is_found {
            return Ok(String::new());
        }
        let text = self.stream.push(id)?;
        Ok(self.stop.push(&text))
    }

    /// The text that was still held back.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String, TokenizerError> {
        if self.stop.is_found {
            return Ok(String::new());
        }
        let text = self.stop.push(&self.stream.finish()?);
        Ok(text + &self.stop.held)
    }

    /// Whether a stop string has come.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_found
    }
}

/// Text on its way, up to the first of some strings.
struct StopStrings {
    strings: Vec<String>,
    /// Text that may be the beginning of one of them.
    held: String,
    is_found: bool,
}

impl StopStrings {
    fn new(strings: Vec<String>) -> Self {
        Self {
            // Every text begins with the empty one.
            strings: strings.into_iter().filter(|s| !s.is_empty()).collect(),
            held: String::new(),
            is_found: false,
        }
    }

    /// What can be given out of the text that is held, and `new` behind it.
    fn push(&mut self, new: &str) -> String {
        self.held += new;
        let starts = self.strings.iter().map(|s| self.held.find(s.as_str()));
        if let Some(start) = starts.flatten().min() {
            self.is_found = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let starts = self.strings.iter().map(|s| possible_start(&self.held, s));
        let end = starts.flatten().min().unwrap_or(self.held.len());
        let rest = self.held.split_off(end);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Where the longest end of `text` begins that `stop` begins with.
fn possible_start(text: &str, stop: &str) -> Option<usize> {
    let starts = text.char_indices().map(|(start, _)| start);
    let mut starts = starts.filter(|&start| text.len() - start < stop.len());
    starts.find(|&start| stop.starts_with(&text[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(stop: &[&str], texts: &[&str]) -> (Vec<String>, String, bool) {
        let mut strings = StopStrings::new(stop.iter().map(|&s| s.into()).collect());
        let pieces = texts.iter().map(|text| strings.push(text)).collect();
        (pieces, strings.held, strings.is_found)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_held_back() {
        let (given, held, is_found) = pieces(&["\n\nQ:"], &["a\n", "b", "\n\n", "Q", ": no"]);
        assert_eq!(given, ["a", "\nb", "", "", ""]);
        assert_eq!((held.as_str(), is_found), ("", true));
    }

    #[test]
    fn what_only_looks_like_a_stop_string_is_given_out() {
        let (given, held, is_found) = pieces(&["###", ""], &["a##", "b#", "#c", "\u{e9}#"]);
        assert_eq!(given, ["a", "##b", "##c", "\u{e9}"]);
        assert_eq!((held.as_str(), is_found), ("#", false));
    }

    #[test]
    fn the_first_of_several_stop_strings_ends_the_text() {
        let (given, _, is_found) = pieces(&["world", "o w"], &["hello world"]);
        assert_eq!(given, ["hell"]);
        assert!(is_found);
        let (given, held, _) = pieces(&["aab"], &["aaa", "c"]);
        assert_eq!((given, held.as_str()), (vec!["a".into(), "aac".into()], ""));
    }
}
