use super::IdStream;
use crate::{
    generation::{Finish, GenerateError, TextDecoder, Timings},
    sampling::TokenMask,
    speculative::DraftStatistics,
};

/// New text of a [`Session`](super::Session), piece by piece, in whole characters.
///
/// Made by [`Session::generate`](super::Session::generate) and [`IdStream::into_text`]. It ends
/// before the first stop string, and a token that ends the generation has no text.
pub struct TextStream<'a> {
    ids: IdStream<'a>,
    /// Gone at the end.
    decoder: Option<TextDecoder<'a>>,
    is_stopped: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(ids: IdStream<'a>, decoder: TextDecoder<'a>) -> Self {
        Self {
            ids,
            decoder: Some(decoder),
            is_stopped: false,
        }
    }

    /// Calls `progress` after each chunk of the prompt with the number of tokens done.
    pub fn on_prefill(mut self, progress: impl FnMut(usize) + 'a) -> Self {
        self.ids = self.ids.on_prefill(progress);
        self
    }

    /// Gives the prompt up when `is_stopped` says so after a chunk of it, as
    /// [`IdStream::stop_prefill_when`] does.
    pub fn stop_prefill_when(mut self, is_stopped: impl FnMut() -> bool + 'a) -> Self {
        self.ids = self.ids.stop_prefill_when(is_stopped);
        self
    }

    /// Chooses tokens that a mask allows, such as a matcher of a grammar; it ends when nothing may follow.
    ///
    /// # Errors
    ///
    /// When the session [verifies](super::Session::set_lossless) drafts.
    pub fn with_mask(mut self, mask: impl TokenMask + 'a) -> Result<Self, GenerateError> {
        self.ids = self.ids.with_mask(mask)?;
        Ok(self)
    }

    /// The new ids so far.
    pub fn new_ids(&self) -> &[u32] {
        self.ids.new_ids()
    }

    /// Times of this generation so far.
    pub fn timings(&self) -> Timings {
        self.ids.timings()
    }

    /// What became of drafts, where the session [verifies](super::Session::set_lossless) some.
    pub fn drafts(&self) -> Option<DraftStatistics> {
        self.ids.drafts()
    }

    /// Why it ended; `None` before the end and after an error.
    pub fn finish(&self) -> Option<Finish> {
        match self.is_stopped {
            true => Some(Finish::Stop),
            false => self.ids.finish(),
        }
    }

    /// The next piece; an empty one at the end.
    fn piece(&mut self) -> Result<String, GenerateError> {
        while let Some(decoder) = &mut self.decoder {
            let text = match self.ids.next().transpose()? {
                Some(id) if self.ids.is_stop_id(id) => continue,
                Some(id) => decoder.push(id)?,
                None => break,
            };
            if decoder.is_stopped() {
                self.is_stopped = true;
                self.decoder = None;
            }
            if !text.is_empty() {
                return Ok(text);
            }
        }
        let rest = self.decoder.take().map(TextDecoder::finish);
        Ok(rest.transpose()?.unwrap_or_default())
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<String, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.piece();
        if piece.is_err() {
            self.decoder = None;
        }
        piece
            .map(|text| (!text.is_empty()).then_some(text))
            .transpose()
    }
}

impl std::iter::FusedIterator for TextStream<'_> {}
