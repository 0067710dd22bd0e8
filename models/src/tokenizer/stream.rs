use super::{Tokenizer, TokenizerError};

/// Ids of an earlier text that are decoded along, so that what follows is decoded as its
/// continuation.
const CONTEXT: usize = 8;

/// What stands for bytes that are no character, or not yet one.
const REPLACEMENT: char = '\u{fffd}';

/// Decodes ids one by one, in whole characters.
///
/// Made by [`Tokenizer::decode_stream`].
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids of the text given out last, and that text.
    shown: Vec<u32>,
    shown_text: String,
    /// Ids after these, whose text is held back.
    pending: Vec<u32>,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            shown: Vec::new(),
            shown_text: String::new(),
            pending: Vec::new(),
        }
    }

    pub(super) fn after(tokenizer: &'a Tokenizer, before: &[u32]) -> Result<Self, TokenizerError> {
        let mut stream = Self::new(tokenizer);
        stream.show(before[before.len().saturating_sub(CONTEXT)..].to_vec())?;
        // The bytes of a character whose last one is yet to come are given out with it.
        let whole = stream.shown_text.trim_end_matches(REPLACEMENT).len();
        stream.shown_text.truncate(whole);
        Ok(stream)
    }

    /// The text that becomes known with the next id. It is empty when the id ends in the middle
    /// of a character.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.pending.push(id);
        let all = self.all()?;
        if all.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        let text = match all.strip_prefix(&self.shown_text) {
            Some("") => return Ok(String::new()),
            Some(text) => text.to_owned(),
            // A run of byte tokens that turns out not to be UTF-8 changes text that was already
            // given out; what follows is decoded by itself.
            None => self.tokenizer.decode(&self.pending)?,
        };
        let shown = std::mem::take(&mut self.pending);
        self.show(shown)?;
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
        match self.all()?.strip_prefix(&self.shown_text) {
            Some(rest) => Ok(rest.to_owned()),
            None => self.tokenizer.decode(&self.pending),
        }
    }

    fn all(&self) -> Result<String, TokenizerError> {
        let ids = [&self.shown[..], &self.pending[..]].concat();
        self.tokenizer.decode(&ids)
    }

    fn show(&mut self, ids: Vec<u32>) -> Result<(), TokenizerError> {
        self.shown_text = self.tokenizer.decode(&ids)?;
        self.shown = ids;
        Ok(())
    }
}
