use std::{cell::RefCell, rc::Rc};

use burn::tensor::{DType, Device, Tensor, capture};

use super::{
    DecodeError, DecodeModel,
    choices::Choices,
    device_ints::{DeviceInts, ints},
    run::Run,
    step_graphs::{StepGraph, StepGraphs},
};
use crate::{
    cache::{CacheError, DeviceLists, PagedKvCache, RecordedLists, zeros},
    kernels::{self, DecodeState},
    ops::Body,
};

/// Tokens of a sequence that the device keeps for the host to read.
const HISTORY: usize = 64;

/// A model whose step is recorded, with all that a replay reads and writes.
///
/// It belongs to the thread that made it, since a replay is ordered with the work of the stream
/// that it was recorded on, and streams belong to threads.
pub(super) struct Captured<'a> {
    /// Dropped before the tensors that they read and write.
    graphs: Option<StepGraphs<'a>>,
    work: Rc<RefCell<Work<'a>>>,
    active: Vec<bool>,
    choices: Choices,
    tokens_per_recording: usize,
    recordings: usize,
}

pub(super) struct Work<'a> {
    pub model: Box<dyn DecodeModel + 'a>,
    pub cache: &'a mut PagedKvCache,
    /// Which sequences gain a token, `[batch]`. All zero while a step is recorded: it may then run
    /// any number of times, with any token, and changes nothing.
    active: DeviceInts,
    /// Whose pages are chosen anew by a step that chooses, `[batch]`, and the lists that were chosen.
    due: DeviceInts,
    lists: DeviceLists,
    state: Option<DecodeState>,
}

impl Work<'_> {
    fn step(&mut self, chooses: bool) -> Tensor<2> {
        let state = self.state.take().expect(STATE);
        let [batch] = state.tokens.dims();
        let lists = RecordedLists {
            due: chooses.then(|| self.due.tensor()),
            lists: self.lists.clone(),
        };
        let step = self
            .cache
            .captured_step(state.starts.clone(), state.lengths.clone())
            .with_recorded_lists(lists);
        let ids = state.tokens.clone().reshape([batch, 1]);
        let logits = self.model.logits(ids, self.cache, &step);
        // The state is written in place, so nothing else may hold it.
        drop(step);
        let state = kernels::next_tokens(logits.clone(), self.active.tensor(), state);
        self.state = Some(state);
        logits
    }
}

const STATE: &str = "the state is put back after each use";

impl<'a> Captured<'a> {
    pub(super) fn new(
        model: Box<dyn DecodeModel + 'a>,
        cache: &'a mut PagedKvCache,
        tokens: &[u32],
        tokens_per_recording: usize,
    ) -> Self {
        let device = device_of(cache);
        let batch = tokens.len();
        let lengths = cache.lengths();
        let state = DecodeState {
            tokens: ints(tokens.iter().map(|&id| id as i32), &device),
            starts: ints(lengths.iter().map(|&n| n as i32), &device),
            lengths: ints(lengths.iter().map(|&n| n as i32 + 1), &device),
            history: zeros([batch, HISTORY], &device, DType::I32),
        };
        Self {
            graphs: None,
            work: Rc::new(RefCell::new(Work {
                model,
                cache,
                active: DeviceInts::new(vec![0; batch], &device),
                due: DeviceInts::new(vec![0; batch], &device),
                lists: DeviceLists::default(),
                state: Some(state),
            })),
            active: vec![true; batch],
            choices: Choices::none(batch),
            tokens_per_recording,
            recordings: 0,
        }
    }

    fn record(&mut self) -> Result<(), DecodeError> {
        self.record_for(1)
    }

    /// Records the step, with pages for at least `needed` more tokens of each active sequence.
    pub(super) fn record_for(&mut self, needed: usize) -> Result<(), DecodeError> {
        self.graphs = None;
        self.reserve(needed)?;
        self.write_active(false);
        // What was chosen before serves on.
        self.work.borrow_mut().due.write(vec![0; self.active.len()]);
        let choosing = self.recording(true);
        let keeps = self.work.borrow().model.steps_per_choice() > 1;
        let keeping = keeps.then(|| self.recording(false));
        self.graphs = Some(StepGraphs::new(choosing, keeping));
        self.write_active(true);
        self.recordings += 1;
        Ok(())
    }

    fn recording(&self, chooses: bool) -> StepGraph<'a> {
        let work = Rc::clone(&self.work);
        let step: Box<dyn FnMut() -> Tensor<2> + 'a> =
            Box::new(move || work.borrow_mut().step(chooses));
        let device = device_of(self.work.borrow().cache);
        capture(&device, step)
    }

    /// Notes whose pages the next step chooses anew, and says whether there are any.
    fn choose(&mut self) -> bool {
        let work = &mut *self.work.borrow_mut();
        if work.model.steps_per_choice() == 1 {
            return true;
        }
        let page_size = work.cache.page_size();
        let lengths = work.cache.lengths().iter().map(|length| length + 1);
        let sequences = self.active.iter().copied().zip(lengths);
        let (model, choices) = (&work.model, &mut self.choices);
        let due = choices.renew(sequences, |made_at, length| {
            model.choice_serves(made_at, length, page_size)
        });
        let any = due.contains(&true);
        if any {
            work.due.write(due.into_iter().map(i32::from).collect());
        }
        any
    }

    /// Takes pages for the tokens of a recording, or for as many as there is room for.
    fn reserve(&mut self, needed: usize) -> Result<(), CacheError> {
        let cache = &mut *self.work.borrow_mut().cache;
        let mut ahead = self.tokens_per_recording.max(needed);
        loop {
            let tokens = self.active.iter().zip(cache.lengths());
            let tokens = tokens.map(|(active, length)| match active {
                // No fewer, for the error that says which sequence is full.
                true => ahead.min(cache.capacity() - length).max(needed),
                false => 0,
            });
            let tokens = tokens.collect::<Vec<_>>();
            match cache.reserve(&tokens) {
                Err(CacheError::PoolFull { .. }) if ahead > 1 => ahead /= 2,
                outcome => return outcome,
            }
        }
    }

    /// Says on the device which sequences gain tokens: the active ones or, while a step is
    /// recorded, none. One that gains none appends none.
    fn write_active(&self, moves_on: bool) {
        let work = &mut *self.work.borrow_mut();
        let flags = self.active.iter().map(|&a| i32::from(a && moves_on));
        work.active.write(flags.collect());

        let mut state = work.state.take().expect(STATE);
        let device = state.lengths.device();
        let lengths = self.active.iter().zip(work.cache.lengths());
        let lengths = lengths.map(|(&active, &length)| match active {
            true if moves_on => length as i32 + 1,
            // A step has to attend to something. The row is the first of its page, so that the
            // page's digest begins anew with the token that is fed in its place.
            true => (length as i32).max(1),
            false => length as i32,
        });
        state.lengths = kernels::assign(state.lengths, ints(lengths, &device));
        work.state = Some(state);
    }

    /// The tokens that followed the one that sequences were fed `steps` steps ago, and those after
    /// it; none for a sequence that is not active.
    pub(super) fn last_tokens(&self, steps: usize) -> Result<Vec<Vec<u32>>, DecodeError> {
        assert!(steps <= HISTORY, "steps of which the tokens are kept");
        let work = self.work.borrow();
        let history = work.state.as_ref().expect(STATE).history.clone();
        let history = history.try_into_data()?.try_to_vec::<i32>();
        let history = history.expect("the history is in i32");
        let tokens_of = |sequence: usize| {
            let length = work.cache.lengths()[sequence];
            let row = &history[sequence * HISTORY..][..HISTORY];
            (length - steps..length)
                .map(|start| {
                    u32::try_from(row[start % HISTORY]).map_err(|_| DecodeError::Logits {
                        sequence,
                        length: start + 1,
                    })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let sequences = self.active.iter().enumerate();
        sequences
            .map(|(sequence, &active)| match active {
                true => tokens_of(sequence),
                false => Ok(Vec::new()),
            })
            .collect()
    }

    /// Takes back the newest tokens of the one sequence there is; the recording holds on.
    pub(super) fn rewind(&mut self, length: usize) {
        let work = &mut *self.work.borrow_mut();
        work.cache.rewind(0, length);
        self.choices = Choices::none(1);
        let mut state = work.state.take().expect(STATE);
        let device = state.starts.device();
        let count = |n: usize| ints(core::iter::once(n as i32), &device);
        state.starts = kernels::assign(state.starts, count(length));
        state.lengths = kernels::assign(state.lengths, count(length + 1));
        work.state = Some(state);
    }

    /// What the step works on, for other recordings over the same cache. They are made void where this
    /// one takes pages.
    pub(super) fn work(&self) -> &Rc<RefCell<Work<'a>>> {
        &self.work
    }

    /// Ends the recording, and gives back the pages that hold no token.
    pub(super) fn end(&mut self) {
        self.graphs = None;
        self.work.borrow_mut().cache.release_reserved();
    }

    /// Whether the step is recorded, with pages for so many more tokens of the one sequence there is.
    pub(super) fn is_good_for(&self, tokens: usize) -> bool {
        self.graphs.is_some() && self.work.borrow().cache.room(0) >= tokens
    }
}

impl Run for Captured<'_> {
    /// Records the step unless it is recorded already.
    fn prepare(&mut self) -> Result<(), DecodeError> {
        match self.graphs {
            Some(_) => Ok(()),
            None => self.record(),
        }
    }

    /// Queues one step; nothing waits for the device.
    fn advance(&mut self) -> Result<(), DecodeError> {
        if !self.active.contains(&true) {
            return Err(CacheError::NoTokens.into());
        }
        let has_room = {
            let work = self.work.borrow();
            let mut sequences = self.active.iter().enumerate();
            sequences.all(|(sequence, active)| !active || work.cache.room(sequence) > 0)
        };
        if self.graphs.is_none() || !has_room {
            self.record()?;
        }
        let chooses = self.choose();
        let graphs = self.graphs.as_mut().expect("recorded above");
        let graph = graphs.next(chooses);
        // SAFETY: what the step reads and writes is in `work`, whose tensors are neither given
        // away nor replaced while the graph exists (`record` drops it before it takes pages, which
        // replaces the page table), and in the output, which the graph holds; the model and the
        // cache are borrowed for as long. `Rc` keeps all of it on this thread, and so on the
        // stream of the recording.
        unsafe { graph.replay() };
        self.work.borrow_mut().cache.advance(&self.active);
        Ok(())
    }

    /// The host waits once per [`HISTORY`] steps.
    fn run(&mut self, n: usize) -> Result<Vec<Vec<u32>>, DecodeError> {
        let mut tokens = vec![Vec::with_capacity(n); self.active.len()];
        let mut to_take = n;
        while to_take > 0 {
            let steps = to_take.min(HISTORY);
            for _ in 0..steps {
                self.advance()?;
            }
            for (tokens, new) in tokens.iter_mut().zip(self.last_tokens(steps)?) {
                tokens.extend(new);
            }
            to_take -= steps;
        }
        Ok(tokens)
    }

    fn feed(&mut self, tokens: &[u32]) {
        let work = &mut *self.work.borrow_mut();
        let mut state = work.state.take().expect(STATE);
        let tokens = ints(tokens.iter().map(|&id| id as i32), &state.tokens.device());
        state.tokens = kernels::assign(state.tokens, tokens);
        work.state = Some(state);
    }

    fn stop(&mut self, sequence: usize) -> Result<(), CacheError> {
        let batch = self.active.len();
        let active = self.active.get_mut(sequence);
        *active.ok_or(CacheError::Sequence { sequence, batch })? = false;
        self.write_active(true);
        Ok(())
    }

    /// Logits of the last step.
    fn logits(&self) -> Option<Tensor<2>> {
        let graphs = self.graphs.as_ref()?;
        Some(graphs.last().output().clone())
    }

    fn active(&self) -> &[bool] {
        &self.active
    }

    fn lengths(&self) -> Vec<usize> {
        self.work.borrow().cache.lengths().to_vec()
    }

    fn vocab_size(&self) -> usize {
        self.work.borrow().model.vocab_size()
    }

    fn is_hardware(&self) -> bool {
        let is_replayed = |graphs: &StepGraphs<'_>| graphs.last().is_hardware();
        self.graphs.as_ref().is_some_and(is_replayed)
    }

    fn recordings(&self) -> usize {
        self.recordings
    }
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        self.graphs = None;
        // Not while another panic, of the step itself, holds the work.
        if let Ok(mut work) = self.work.try_borrow_mut() {
            work.cache.release_reserved();
        }
    }
}

/// Whether steps over a cache are recorded: where the kernels run.
pub(super) fn records(cache: &PagedKvCache) -> bool {
    Body::of_layer(cache.layer(0), &device_of(cache)) == Body::Kernels
}

/// Where a cache is.
pub(super) fn device_of(cache: &PagedKvCache) -> Device {
    cache.layer(0).device()
}
