use core::fmt;

use burn::tensor::Tensor;

use super::{
    DecodeError, DecodeGraphConfig, DecodeModel,
    graph::{check_tokens, read_rows},
    uncaptured_drafts::UncapturedDrafts,
};
#[cfg(feature = "cube")]
use super::{DecodeGraph, captured_drafts::CapturedDrafts};
use crate::cache::{CacheError, PagedKvCache};
#[cfg(feature = "cube")]
use crate::ops;

/// Two passes of a model over one sequence: decode steps that draft tokens, and a dense pass over several
/// tokens that verifies them. Where the device can, both are recorded once and replayed.
///
/// A round [drafts](Self::draft), [verifies](Self::verify) and [keeps](Self::keep) some of the tokens that
/// were verified. Drafts leave nothing: verifying begins where the kept tokens end.
///
/// As with a [`DecodeGraph`](super::DecodeGraph), the cache is borrowed, pages for coming tokens are taken ahead and come back
/// when this is dropped, and no other thread may use the device while a pass is recorded.
pub struct DraftGraph<'a> {
    run: Run<'a>,
    drafts: usize,
    /// Tokens of the last pass.
    verified: usize,
}

#[allow(clippy::large_enum_variant, reason = "one is made per generation")]
enum Run<'a> {
    #[cfg(feature = "cube")]
    Captured(CapturedDrafts<'a>),
    Uncaptured(UncapturedDrafts<'a>),
}

/// Calls a method of whichever run there is.
macro_rules! on_run {
    ($graph:expr, $run:ident => $call:expr) => {
        match $graph {
            #[cfg(feature = "cube")]
            Run::Captured($run) => $call,
            Run::Uncaptured($run) => $call,
        }
    };
}

impl<'a> DraftGraph<'a> {
    /// Rounds of up to `drafts` drafted tokens after what the cache holds of its one sequence.
    ///
    /// Nothing is computed before [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// When the cache has several sequences.
    pub fn new(
        model: impl DecodeModel + 'a,
        cache: &'a mut PagedKvCache,
        drafts: usize,
        config: DecodeGraphConfig,
    ) -> Result<Self, DecodeError> {
        let batch = cache.batch();
        if batch != 1 {
            return Err(DecodeError::Tokens { batch, found: 1 });
        }
        let model = Box::new(model);
        #[cfg(feature = "cube")]
        if config.capture
            && model.is_capturable()
            && DecodeGraph::records(cache)
            && ops::prefills_on_kernels(cache.layer(0), drafts + 1)
        {
            let ahead = config.tokens_per_recording;
            let captured = CapturedDrafts::new(model, cache, drafts + 1, ahead);
            return Ok(Self {
                run: Run::Captured(captured),
                drafts,
                verified: 0,
            });
        }
        let _ = config;
        Ok(Self {
            run: Run::Uncaptured(UncapturedDrafts::new(model, cache)),
            drafts,
            verified: 0,
        })
    }

    /// Begins a round of so many drafts: records both passes where the device can and they are not, or where
    /// their pages have run out.
    ///
    /// # Errors
    ///
    /// When the sequence or the pool is full.
    ///
    /// # Panics
    ///
    /// When there are more drafts than was said.
    pub fn reserve(&mut self, drafts: usize) -> Result<(), DecodeError> {
        assert!(
            drafts <= self.drafts,
            "drafts: expected at most {}, found {drafts}",
            self.drafts
        );
        match &mut self.run {
            #[cfg(feature = "cube")]
            Run::Captured(run) => run.reserve(drafts + 1),
            Run::Uncaptured(_) => Ok(()),
        }
    }

    /// Logits after one more token, by the policy.
    ///
    /// # Errors
    ///
    /// When the model does not know the token, the sequence or the pool is full, or the device fails.
    pub fn draft(&mut self, token: u32) -> Result<Vec<f32>, DecodeError> {
        self.check(&[token])?;
        let logits = on_run!(&mut self.run, run => run.draft(token))?;
        Ok(read_rows(logits)?.remove(0))
    }

    /// `n` drafts after a token, each the most probable one after those before; a device that replays takes
    /// these steps without the host.
    ///
    /// # Errors
    ///
    /// As [`draft`](Self::draft), and when logits have no answer.
    pub fn draft_most_probable(&mut self, token: u32, n: usize) -> Result<Vec<u32>, DecodeError> {
        self.check(&[token])?;
        if n == 0 {
            return Ok(Vec::new());
        }
        on_run!(&mut self.run, run => run.draft_most_probable(token, n))
    }

    /// Takes the drafts of this round back, to draft anew.
    ///
    /// # Errors
    ///
    /// None but those of a cache that others have changed.
    pub fn undo_drafts(&mut self) -> Result<(), DecodeError> {
        match &mut self.run {
            #[cfg(feature = "cube")]
            Run::Captured(run) => run.undo_drafts(),
            Run::Uncaptured(run) => run.undo_drafts()?,
        }
        Ok(())
    }

    /// Takes the drafts back and passes over these tokens densely instead.
    ///
    /// # Errors
    ///
    /// As [`draft`](Self::draft).
    ///
    /// # Panics
    ///
    /// When there are none, or more than the drafts and the token before them.
    pub fn verify(&mut self, tokens: &[u32]) -> Result<(), DecodeError> {
        let most = self.drafts + 1;
        assert!(
            (1..=most).contains(&tokens.len()),
            "tokens to verify: expected 1 to {most}, found {}",
            tokens.len()
        );
        self.check(tokens)?;
        self.undo_drafts()?;
        on_run!(&mut self.run, run => run.verify(tokens))?;
        self.verified = tokens.len();
        Ok(())
    }

    /// The most probable token after each of those that were verified; none where logits have no answer.
    ///
    /// # Errors
    ///
    /// When the device fails.
    ///
    /// # Panics
    ///
    /// When none were verified.
    pub fn most_probable(&self) -> Result<Vec<Option<u32>>, DecodeError> {
        on_run!(&self.run, run => run.most_probable(self.verified))
    }

    /// Logits after each of the tokens that were verified.
    ///
    /// # Errors
    ///
    /// When the device fails.
    ///
    /// # Panics
    ///
    /// When none were verified.
    pub fn logits(&self) -> Result<Vec<Vec<f32>>, DecodeError> {
        let logits: Tensor<2> = on_run!(&self.run, run => run.logits());
        let mut rows = read_rows(logits)?;
        rows.truncate(self.verified);
        Ok(rows)
    }

    /// Keeps the first `n` of the tokens that were verified; the others leave nothing.
    ///
    /// # Errors
    ///
    /// None but those of a cache that others have changed.
    ///
    /// # Panics
    ///
    /// When fewer were verified.
    pub fn keep(&mut self, n: usize) -> Result<(), DecodeError> {
        assert!(
            n <= self.verified,
            "tokens to keep: expected at most {}, found {n}",
            self.verified
        );
        self.verified = 0;
        match &mut self.run {
            #[cfg(feature = "cube")]
            Run::Captured(run) => run.keep(n),
            Run::Uncaptured(run) => run.keep(n)?,
        }
        Ok(())
    }

    /// Tokens of the sequence that are kept.
    pub fn kept(&self) -> usize {
        on_run!(&self.run, run => run.kept())
    }

    /// Ends the rounds, and leaves the first `length` tokens of the sequence.
    ///
    /// # Errors
    ///
    /// When it is shorter.
    pub fn finish(mut self, length: usize) -> Result<(), CacheError> {
        on_run!(&mut self.run, run => run.finish(length))
    }

    /// Whether passes are replays of recordings that the device made, rather than launches issued again.
    pub fn is_hardware(&self) -> bool {
        match &self.run {
            #[cfg(feature = "cube")]
            Run::Captured(run) => run.is_hardware(),
            Run::Uncaptured(_) => false,
        }
    }

    /// How often the passes have been recorded.
    pub fn recordings(&self) -> usize {
        match &self.run {
            #[cfg(feature = "cube")]
            Run::Captured(run) => run.recordings(),
            Run::Uncaptured(_) => 0,
        }
    }

    fn check(&self, tokens: &[u32]) -> Result<(), DecodeError> {
        let vocab_size = on_run!(&self.run, run => run.vocab_size());
        tokens
            .iter()
            .try_for_each(|&token| check_tokens(&[token], 1, vocab_size))
    }
}

impl fmt::Debug for DraftGraph<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DraftGraph")
            .field("kept", &self.kept())
            .field("drafts", &self.drafts)
            .field("is_hardware", &self.is_hardware())
            .field("recordings", &self.recordings())
            .finish()
    }
}
