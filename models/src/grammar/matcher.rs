use core::fmt;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use llguidance::Matcher;

use super::watch;
use crate::sampling::TokenMask;

/// A grammar that was compiled for a tokenizer. Clones share what it holds.
#[derive(Clone)]
pub struct Grammar {
    /// Nothing was accepted by it yet. A lock, as matchers are for one thread at a time.
    matcher: Arc<Mutex<Matcher>>,
    mask_time: Duration,
}

impl Grammar {
    pub(super) fn new(matcher: Matcher, mask_time: Duration) -> Self {
        Self {
            matcher: Arc::new(Mutex::new(matcher.into_cancellable())),
            mask_time,
        }
    }

    /// The same grammar, of which nothing is learned yet.
    pub(super) fn fresh(&self) -> Self {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            matcher: Arc::new(Mutex::new(matcher.deep_clone())),
            mask_time: self.mask_time,
        }
    }

    /// A matcher at the beginning of an answer. Those of one grammar share what they learn of it.
    pub fn matcher(&self) -> GrammarMatcher {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        GrammarMatcher {
            matcher: matcher.clone(),
            mask_time: self.mask_time,
        }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

/// Where one answer is in its grammar. A clone goes on from there by itself.
#[derive(Clone)]
pub struct GrammarMatcher {
    matcher: Matcher,
    mask_time: Duration,
}

impl GrammarMatcher {
    /// Gives it another time for masks.
    #[cfg(test)]
    pub(super) fn hurry(&mut self, mask_time: Duration) {
        self.mask_time = mask_time;
    }

    /// What the matcher says, unless it takes longer than it may.
    fn within_time<T, E: fmt::Display>(
        &mut self,
        ask: impl FnOnce(&mut Matcher) -> Result<T, E>,
    ) -> Result<T, String> {
        let handle = self.matcher.cancellation_handle();
        let timed = handle.map(|handle| watch::limited(handle, self.mask_time));
        let said = ask(&mut self.matcher);
        drop(timed);
        said.map_err(|error| match self.matcher.is_cancelled() {
            true => {
                let most = self.mask_time.as_millis();
                format!(
                    "expected at most {most} ms for a token, found more: the grammar is too complex"
                )
            }
            false => in_short(&error),
        })
    }

    /// Whether the answer may end here.
    ///
    /// # Errors
    ///
    /// When the matcher has failed before.
    pub fn may_end(&mut self) -> Result<bool, String> {
        if self.is_complete() {
            return Ok(true);
        }
        self.within_time(Matcher::is_accepting)
    }
}

impl TokenMask for GrammarMatcher {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        let mask = self.within_time(Matcher::compute_mask_or_eos)?;
        Ok(mask.as_slice().to_vec())
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.within_time(|matcher| matcher.consume_token(id))
    }

    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

impl fmt::Debug for GrammarMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarMatcher")
            .field("is_complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// An error without the traces that are for authors of parsers.
pub(super) fn in_short(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default();
    let text = text.strip_prefix("panic: ").unwrap_or(text);
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("(use "));
    let text = lines.collect::<Vec<_>>().join("; ");
    const MOST: usize = 400;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
