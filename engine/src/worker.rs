//! The thread of an engine: steps until nobody asks for more.

mod passes;
mod plan;
mod recorded;
mod recordings;
mod share;

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvError, TryRecvError},
    },
};

use burn::tensor::ExecutionError;
use quest_burn::{
    cache::{CacheError, PagedKvCache},
    decode::{BatchGraph, DecodeError},
};
use quest_burn_models::local::LocalModel;
use thiserror::Error;

use self::recordings::Recordings;
use crate::{
    EngineConfig, FinishReason, Policy, Stats,
    pages::PageStore,
    policies::Policies,
    sequence::Sequence,
    shared::{Shared, State},
};

/// What the handles tell the thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// To take a request on.
    Submit(Box<Sequence>, Policy),
    /// To end once all requests have their answers.
    Shutdown,
}

/// Why the thread ends before its time.
#[derive(Error, Debug)]
pub(crate) enum WorkerError {
    #[error("device: {0}")]
    Device(#[from] ExecutionError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Recording(#[from] DecodeError),
    #[error("the model's pass panicked: {0}")]
    Panic(String),
}

/// How a sequence ended in a step.
type Outcome = Result<FinishReason, String>;

#[derive(Debug)]
pub(crate) struct Worker {
    /// Dropped before the model and the cache that they read and write.
    recordings: Recordings<BatchGraph<'static>>,
    /// Whether there will be any.
    records: bool,
    model: LocalModel,
    config: EngineConfig,
    cache: PagedKvCache,
    store: PageStore,
    policies: Policies,
    /// The oldest first.
    waiting: VecDeque<Sequence>,
    /// The oldest first; all are older than those that wait.
    running: Vec<Sequence>,
    stats: Stats,
    shared: Arc<Shared>,
    shuts_down: bool,
}

impl Worker {
    /// Takes the memory of the cache.
    pub(crate) fn new(
        model: LocalModel,
        config: EngineConfig,
        shared: Arc<Shared>,
    ) -> Result<Self, CacheError> {
        let cache = model.cache(1, config.pool_tokens);
        let cache = cache.init(&model.device(), model.dtype())?;
        let n_pages = cache.config().n_pages;
        let mut worker = Self {
            recordings: Recordings::default(),
            records: false,
            store: PageStore::new(n_pages, cache.page_size(), config.prefix_cache),
            cache,
            model,
            config,
            policies: Policies::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            stats: Stats::default(),
            shared,
            shuts_down: false,
        };
        worker.records = worker.can_record();
        worker.publish();
        Ok(worker)
    }

    /// Steps until the engine is shut down, or its handles are gone and its requests answered.
    pub(crate) fn run(mut self, commands: Receiver<Command>) {
        loop {
            if self.receive(&commands).is_err() {
                break;
            }
            let step = catch_unwind(AssertUnwindSafe(|| self.step()));
            let step = step.unwrap_or_else(|panic| Err(WorkerError::Panic(message(&*panic))));
            if let Err(error) = step {
                self.end(&commands, &error.to_string());
                return;
            }
        }
        self.shared.set(State::Ended);
    }

    /// Takes the commands that are there; waits for one where nothing else is to be done. An error says
    /// that nothing will be.
    fn receive(&mut self, commands: &Receiver<Command>) -> Result<(), RecvError> {
        loop {
            let is_idle = self.running.is_empty() && self.waiting.is_empty();
            let command = match commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) if is_idle && !self.shuts_down => commands.recv()?,
                Err(_) if is_idle => return Err(RecvError),
                Err(_) => return Ok(()),
            };
            match command {
                Command::Shutdown => self.shuts_down = true,
                Command::Submit(mut sequence, policy) => {
                    sequence.policy = self.policies.number(&policy);
                    sequence.origin = self.policies.origin(sequence.policy);
                    let page_size = self.cache.page_size();
                    sequence.dense_pages = self.policies.dense_pages(sequence.policy, page_size);
                    self.waiting.push_back(*sequence);
                }
            }
        }
    }

    fn step(&mut self) -> Result<(), WorkerError> {
        self.drop_cancelled();
        self.admit();
        let plan = self.plan()?;
        let mut outcomes = plan.outcomes;
        self.decode(&plan.work, &mut outcomes)?;
        self.prefill(&plan.work, &mut outcomes)?;
        self.stats.steps += 1;
        self.retire(outcomes);
        Ok(())
    }

    /// Lets go of sequences whose answers nobody waits for.
    fn drop_cancelled(&mut self) {
        let mut cancelled = Vec::new();
        for i in (0..self.running.len()).rev() {
            if self.running[i].is_cancelled() {
                cancelled.push(self.running.remove(i));
            }
        }
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (gone, left): (VecDeque<_>, VecDeque<_>) = waiting.partition(Sequence::is_cancelled);
        self.waiting = left;
        for mut sequence in cancelled.into_iter().chain(gone) {
            self.release(&mut sequence);
            self.stats.cancelled += 1;
        }
        self.publish();
    }

    fn release(&mut self, sequence: &mut Sequence) {
        sequence.release(&mut self.store, self.cache.page_size());
        self.shared.leave();
    }

    /// Takes sequences out that ended, then tells who waits for them.
    fn retire(&mut self, mut outcomes: Vec<(usize, Outcome)>) {
        outcomes.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        let mut ended = Vec::new();
        for (index, outcome) in outcomes {
            let mut sequence = self.running.remove(index);
            self.release(&mut sequence);
            match &outcome {
                Ok(_) => self.stats.finished += 1,
                Err(_) => self.stats.failed += 1,
            }
            ended.push((sequence, outcome));
        }
        self.publish();
        for (sequence, outcome) in ended.into_iter().rev() {
            match outcome {
                Ok(reason) => sequence.finish(reason),
                Err(error) => sequence.fail(&error),
            }
        }
    }

    fn publish(&self) {
        self.shared.publish(Stats {
            running: self.running.len(),
            pages: self.store.n_pages(),
            free_pages: self.store.n_free(),
            cached_pages: self.store.n_kept(),
            ..self.stats
        });
    }

    /// Fails whatever there is: the device cannot be relied on any more.
    fn end(mut self, commands: &Receiver<Command>, error: &str) {
        log::error!("the engine ends: {error}");
        self.shared.set(State::Ended);
        let there = self.running.drain(..).chain(self.waiting.drain(..));
        for sequence in there {
            sequence.fail(error);
        }
        for command in commands.try_iter() {
            if let Command::Submit(sequence, _) = command {
                sequence.fail(error);
            }
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}
