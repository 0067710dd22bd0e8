use std::{cell::RefCell, rc::Rc};

use burn::tensor::{DType, Int, Tensor, capture};

use super::{
    DecodeError, DecodeModel,
    captured::{Captured, STATE, StepGraph, Work, device_of, ints},
    run::Run,
};
use crate::{
    cache::{CacheError, PagedKvCache, Phase, zeros},
    kernels::{self, DecodeState},
};

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
    ids: Option<Tensor<1, Int>>,
    /// Tokens before the pass and after it, `[1]`.
    starts: Option<Tensor<1, Int>>,
    lengths: Option<Tensor<1, Int>>,
    /// `[1, size]`
    offsets: Tensor<2, Int>,
    /// A state as if each token were a sequence's newest, for the most probable tokens that follow.
    state: Option<DecodeState>,
    active: Tensor<1, Int>,
}

impl PassTokens {
    fn pass(&mut self, work: &mut Work<'_>) -> Tensor<2> {
        let [_, size] = self.offsets.dims();
        let starts = self.starts.clone().expect(STATE);
        let first = starts.clone().reshape([1, 1]).expand([1, size]);
        let positions = first + self.offsets.clone();
        let lengths = self.lengths.clone().expect(STATE);
        let step = (work.cache).captured_pass(Phase::Prefill, positions, starts, lengths);
        let ids = self.ids.clone().expect(STATE).reshape([1, size]);
        let logits = work.model.logits(ids, work.cache, &step);
        // What the host writes in place may be held by nothing else.
        drop(step);
        let state = self.state.take().expect(STATE);
        let state = kernels::next_tokens(logits.clone(), self.active.clone(), state);
        self.state = Some(state);
        logits
    }

    fn assign(&mut self, tokens: &[u32], start: usize) {
        let [_, size] = self.offsets.dims();
        let device = self.offsets.device();
        let write = |target: &mut Option<Tensor<1, Int>>, values: Vec<i32>| {
            let before = target.take().expect(STATE);
            *target = Some(kernels::assign(before, ints(values.into_iter(), &device)));
        };
        let mut ids = tokens.iter().map(|&id| id as i32).collect::<Vec<_>>();
        ids.resize(size, 0);
        write(&mut self.ids, ids);
        write(&mut self.starts, vec![start as i32]);
        write(&mut self.lengths, vec![(start + tokens.len()) as i32]);
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
        let counts = |n: usize, value: i32| ints((0..n).map(|_| value), &device);
        let offsets = ints(0..size as i32, &device).unsqueeze_dim(0);
        let tokens = PassTokens {
            ids: Some(counts(size, 0)),
            starts: Some(counts(1, kept as i32)),
            lengths: Some(counts(1, kept as i32)),
            offsets,
            state: Some(DecodeState {
                tokens: counts(size, 0),
                starts: counts(size, 0),
                lengths: counts(size, 0),
                history: zeros([size, 1], &device, DType::I32),
            }),
            active: counts(size, 1),
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
        let tokens = self.tokens.borrow();
        let chosen = tokens.state.as_ref().expect(STATE).history.clone();
        let chosen = chosen.try_into_data()?.try_to_vec::<i32>();
        let chosen = chosen.expect("the history is in i32");
        let chosen = chosen.into_iter().take(n);
        Ok(chosen.map(|id| u32::try_from(id).ok()).collect())
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
