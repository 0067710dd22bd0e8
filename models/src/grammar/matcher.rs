use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;

use crate::sampling::TokenMask;

/// A grammar that was compiled for a tokenizer. Clones share what it holds.
#[derive(Clone)]
pub struct Grammar {
    /// Nothing was accepted by it yet. A lock, as matchers are for one thread at a time.
    matcher: Arc<Mutex<Matcher>>,
}

impl Grammar {
    pub(super) fn new(matcher: Matcher) -> Self {
        Self {
            matcher: Arc::new(Mutex::new(matcher)),
        }
    }

    /// A matcher at the beginning of an answer. Those of one grammar share what they learn of it.
    pub fn matcher(&self) -> GrammarMatcher {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        GrammarMatcher {
            matcher: matcher.clone(),
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
}

impl GrammarMatcher {
    /// Whether the answer may end here.
    ///
    /// # Errors
    ///
    /// When the matcher has failed before.
    pub fn may_end(&mut self) -> Result<bool, String> {
        if self.is_complete() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|e| in_short(&e))
    }
}

impl TokenMask for GrammarMatcher {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        let mask = self.matcher.compute_mask_or_eos();
        mask.map(|mask| mask.as_slice().to_vec())
            .map_err(|e| in_short(&e))
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.matcher.consume_token(id).map_err(|e| in_short(&e))
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
