use std::{cell::RefCell, rc::Rc};

use burn::tensor::{Int, Tensor, capture};

use super::{
    DecodeError, DecodeModel,
    captured::{Captured, Work, device_of},
    device_ints::{DeviceInts, ints},
    row_choices::RowChoices,
    run::Run,
    step_graphs::StepGraph,
};
use crate::cache::{CacheError, PagedKvCache, Phase};

/// A recorded decode step and a recorded pass over several tokens of the same sequence.
pub(super) struct CapturedDrafts<'a> {
    /// Dropped before the tensors that it reads and writes.
    pass: Option<StepGraph<'a>>,
    tokens: Rc<RefCell<PassTokens>>,
    draft: Captured<'a>,
    /// Tokens of the sequence before drafts and passes.
    kept: usize,
}

/// The tokens of a pass and what it finds.
struct PassTokens {
    /// `[size]`; any where a pass has fewer.
    ids: DeviceInts,
    /// Tokens before the pass and after it, `[1]`.
    starts: DeviceInts,
    lengths: DeviceInts,
    /// `[1, size]`
    offsets: Tensor<2, Int>,
    choices: RowChoices,
    /// Every token, `[size]`.
    active: Tensor<1, Int>,
}

impl PassTokens {
    fn pass(&mut self, work: &mut Work<'_>) -> Tensor<2> {
        let [_, size] = self.offsets.dims();
        let starts = self.starts.tensor();
        let first = starts.clone().reshape([1, 1]).expand([1, size]);
        let positions = first + self.offsets.clone();
        let lengths = self.lengths.tensor();
        let step = (work.cache).captured_pass(Phase::Prefill, positions, starts, lengths);
        let ids = self.ids.tensor().reshape([1, size]);
        let logits = work.model.logits(ids, work.cache, &step);
        // What the host writes in place may be held by nothing else.
        drop(step);
        self.choices.choose(logits.clone(), self.active.clone());
        logits
    }

    fn assign(&mut self, tokens: &[u32], start: usize) {
        let [_, size] = self.offsets.dims();
        let mut ids = tokens.iter().map(|&id| id as i32).collect::<Vec<_>>();
        ids.resize(size, 0);
        self.ids.write(ids);
        self.starts.write(vec![start as i32]);
        self.lengths.write(vec![(start + tokens.len()) as i32]);
    }
}

impl<'a> CapturedDrafts<'a> {
    pub(super) fn new(
        model: Box<dyn DecodeModel + 'a>,
        cache: &'a mut PagedKvCache,
        size: usize,
        tokens_per_recording: usize,
    ) -> Self {
        let device = device_of(cache);
        let kept = cache.lengths()[0];
        let tokens = PassTokens {
            ids: DeviceInts::new(vec![0; size], &device),
            starts: DeviceInts::new(vec![kept as i32], &device),
            lengths: DeviceInts::new(vec![kept as i32], &device),
            offsets: ints(0..size as i32, &device).unsqueeze_dim(0),
            choices: RowChoices::new(size, &device),
            active: ints((0..size).map(|_| 1), &device),
        };
        Self {
            pass: None,
            tokens: Rc::new(RefCell::new(tokens)),
            draft: Captured::new(model, cache, &[0], tokens_per_recording),
            kept,
        }
    }

    /// Records both, unless they are recorded with room for `needed` more tokens.
    pub(super) fn reserve(&mut self, needed: usize) -> Result<(), DecodeError> {
        if self.pass.is_some() && self.draft.is_good_for(needed) {
            return Ok(());
        }
        // The page table that it reads is replaced.
        self.pass = None;
        self.draft.record_for(needed)?;
        // No token is appended while the pass is recorded, and none attends.
        self.tokens.borrow_mut().assign(&[], self.kept);
        let (tokens, work) = (Rc::clone(&self.tokens), Rc::clone(self.draft.work()));
        let pass: Box<dyn FnMut() -> Tensor<2> + 'a> =
            Box::new(move || tokens.borrow_mut().pass(&mut work.borrow_mut()));
        let device = device_of(self.draft.work().borrow().cache);
        self.pass = Some(capture(&device, pass));
        Ok(())
    }

    pub(super) fn draft(&mut self, token: u32) -> Result<Tensor<2>, DecodeError> {
        self.draft.feed(&[token]);
        self.draft.advance()?;
        Ok(self.draft.logits().expect("a step was taken"))
    }

    pub(super) fn draft_most_probable(
        &mut self,
        token: u32,
        n: usize,
    ) -> Result<Vec<u32>, DecodeError> {
        self.draft.feed(&[token]);
        for _ in 0..n {
            self.draft.advance()?;
        }
        Ok(self.draft.last_tokens(n)?.remove(0))
    }

    pub(super) fn undo_drafts(&mut self) {
        self.draft.rewind(self.kept);
    }

    pub(super) fn verify(&mut self, tokens: &[u32]) -> Result<(), DecodeError> {
        self.reserve(tokens.len())?;
        self.tokens.borrow_mut().assign(tokens, self.kept);
        let pass = self.pass.as_mut().expect("recorded above");
        // SAFETY: what the pass reads and writes is in `tokens` and in the work of `draft`, whose tensors
        // are neither given away nor replaced while the graph exists (`reserve` drops it before pages are
        // taken, which replaces the page table), and in the output, which the graph holds; the model and
        // the cache are borrowed for as long. `Rc` keeps all of it on this thread, and so on the stream of
        // the recording.
        unsafe { pass.replay() };
        let cache = &mut *self.draft.work().borrow_mut().cache;
        for _ in tokens {
            cache.advance(&[true]);
        }
        Ok(())
    }

    pub(super) fn most_probable(&self, n: usize) -> Result<Vec<Option<u32>>, DecodeError> {
        Ok(self.tokens.borrow().choices.read(n)?)
    }

    pub(super) fn logits(&self) -> Tensor<2> {
        let pass = self.pass.as_ref().expect("tokens were verified");
        pass.output().clone()
    }

    pub(super) fn keep(&mut self, n: usize) {
        self.kept += n;
        self.draft.rewind(self.kept);
    }

    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    pub(super) fn is_hardware(&self) -> bool {
        self.draft.is_hardware() && self.pass.as_ref().is_some_and(|pass| pass.is_hardware())
    }

    pub(super) fn recordings(&self) -> usize {
        self.draft.recordings()
    }

    /// Ends both recordings.
    pub(super) fn finish(&mut self, length: usize) -> Result<(), CacheError> {
        self.pass = None;
        self.draft.end();
        let cache = &mut *self.draft.work().borrow_mut().cache;
        let is_whole = cache.lengths()[0] == length;
        cache.truncate(0, length)?;
        if is_whole {
            // Nothing was cut, but tokens that were not kept are in its digest still: recorded steps need no
            // other.
            cache.fold_last_page(0);
        }
        Ok(())
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.draft.vocab_size()
    }
}
