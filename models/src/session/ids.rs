use super::{TextStream, new_ids::NewIds};
use crate::{
    generation::{Finish, GenerateError, TextDecoder, Timings},
    sampling::TokenMask,
    speculative::DraftStatistics,
    tokenizer::Tokenizer,
};

/// New ids of a [`Session`](super::Session), one by one.
///
/// Made by [`Session::generate_ids`](super::Session::generate_ids). The session holds every id that
/// was given out, whenever the stream is dropped.
pub struct IdStream<'a> {
    new: NewIds<'a>,
    ids: &'a mut Vec<u32>,
    /// Of the session, and what they were before.
    timings: &'a mut Timings,
    before: Timings,
    first: usize,
    /// Ids before those that were asked with.
    before_prompt: usize,
    tokenizer: Option<&'a Tokenizer>,
    stop_strings: Vec<String>,
}

impl<'a> IdStream<'a> {
    pub(super) fn new(
        new: NewIds<'a>,
        ids: &'a mut Vec<u32>,
        before_prompt: usize,
        timings: &'a mut Timings,
        tokenizer: Option<&'a Tokenizer>,
        stop_strings: Vec<String>,
    ) -> Self {
        Self {
            new,
            first: ids.len(),
            before_prompt,
            ids,
            before: *timings,
            timings,
            tokenizer,
            stop_strings,
        }
    }

    /// Calls `progress` after each chunk of the prompt with the number of tokens done.
    pub fn on_prefill(mut self, progress: impl FnMut(usize) + 'a) -> Self {
        self.new = self.new.on_prefill(Box::new(progress));
        self
    }

    /// Gives the prompt up when `is_stopped` says so after a chunk of it: the stream ends with
    /// [`GenerateError::Stopped`] then, and the session holds the tokens that it held before. What policies remember
    /// of these is forgotten, as after [`truncate`](super::Session::truncate).
    pub fn stop_prefill_when(mut self, is_stopped: impl FnMut() -> bool + 'a) -> Self {
        self.new = self.new.stop_prefill_when(Box::new(is_stopped));
        self
    }

    /// Chooses tokens that a mask allows, such as a matcher of a grammar; it ends when nothing may follow.
    ///
    /// # Errors
    ///
    /// When the session [verifies](super::Session::set_lossless) drafts.
    pub fn with_mask(mut self, mask: impl TokenMask + 'a) -> Result<Self, GenerateError> {
        self.new = self.new.with_mask(mask)?;
        Ok(self)
    }

    /// The same as text.
    ///
    /// # Errors
    ///
    /// When the model has no tokenizer.
    pub fn into_text(mut self) -> Result<TextStream<'a>, GenerateError> {
        let tokenizer = self.tokenizer.ok_or(GenerateError::NoTokenizer)?;
        let stop_strings = std::mem::take(&mut self.stop_strings);
        let decoder = TextDecoder::new(tokenizer, self.ids, stop_strings)?;
        Ok(TextStream::new(self, decoder))
    }

    /// The new ids so far.
    pub fn new_ids(&self) -> &[u32] {
        &self.ids[self.first..]
    }

    /// Times of this generation so far.
    pub fn timings(&self) -> Timings {
        self.new.timings()
    }

    /// Why it ended; `None` before the end and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.new.finish()
    }

    /// What became of drafts, where the session [verifies](super::Session::set_lossless) some.
    pub fn drafts(&self) -> Option<DraftStatistics> {
        self.new.drafts()
    }

    pub(super) fn is_stop_id(&self, id: u32) -> bool {
        self.new.stop_ids().contains(&id)
    }
}

impl Iterator for IdStream<'_> {
    type Item = Result<u32, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = self.new.next()?;
        match &id {
            Ok(id) => self.ids.push(*id),
            Err(GenerateError::Stopped) => {
                self.first = self.before_prompt;
                self.ids.truncate(self.first);
            }
            Err(_) => (),
        }
        *self.timings = self.before + self.new.timings();
        Some(id)
    }
}

impl std::iter::FusedIterator for IdStream<'_> {}
