use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use burn::tensor::StreamId;
use quest_burn::policy::PrefillConfig;
use quest_burn_models::{
    generation::{GenerateError, GenerationConfig, check_context, check_ids},
    local::LocalModel,
};

use crate::{
    Answer, EngineConfig, EngineError, FinishReason, Policy, Request, Stats, SubmitError,
    choose::Chooser,
    pages::Origin,
    sequence::Sequence,
    shared::{Shared, State},
    worker::{Command, Worker},
};

/// A handle on a model at work on many sequences. Clones are handles on the same engine.
///
/// The model lives on a thread of its own, which ends with [`shutdown`](Self::shutdown), or once the last
/// handle is gone and all requests have their answers.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    model: LocalModel,
    config: EngineConfig,
    /// Tokens that all pages hold.
    capacity: usize,
    commands: Sender<Command>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Takes the memory of the KV cache and starts the thread. It is called where the model was loaded: steps can be
    /// recorded on a GPU only on the queue that its weights came by, which the thread goes on with.
    ///
    /// # Errors
    ///
    /// When the configuration makes no sense, the model's prompts are not dense or the cache cannot be made.
    pub fn start(model: LocalModel, config: EngineConfig) -> Result<Self, EngineError> {
        config.validate()?;
        if *model.prefill() != PrefillConfig::Dense {
            return Err(EngineError::Prefill(model.prefill().clone()));
        }
        let (commands, received) = mpsc::channel();
        let (started, starts) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let work = {
            let (model, config, shared) = (model.clone(), config.clone(), shared.clone());
            move || match Worker::new(model, config, shared) {
                Ok(worker) => {
                    let _ = started.send(Ok(()));
                    worker.run(received);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        };
        // Devices have a queue for each thread, and reading what came by another one takes a wait that cannot be
        // recorded.
        let queue = StreamId::current();
        let thread = thread::Builder::new().name("quest-engine".to_owned());
        let thread = thread.spawn(move || queue.executes(work));
        let thread = thread.map_err(EngineError::Thread)?;
        starts.recv().map_err(|_| EngineError::Ended)??;
        let page_size = model.page_size();
        Ok(Self {
            inner: Arc::new(Inner {
                capacity: config.pool_tokens.div_ceil(page_size) * page_size,
                model,
                config,
                commands,
                shared,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Hands a request in.
    ///
    /// # Errors
    ///
    /// When the request is refused: it makes no sense, can never fit, or too many wait.
    pub fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        let inner = &*self.inner;
        inner.check(&request)?;
        match inner.shared.state() {
            State::Running => (),
            State::ShuttingDown => return Err(SubmitError::ShuttingDown),
            State::Ended => return Err(SubmitError::Ended),
        }
        let mut sampler = request
            .sampling
            .init()
            .map_err(|e| SubmitError::Request(GenerateError::from(e)))?;
        sampler.observe(&request.ids);
        let (events, answer) = Answer::new();
        let chooser = Chooser::new(sampler, request.adjustments, request.logprobs, request.mask);
        let sequence = Sequence {
            prompt: request.ids.len(),
            ids: request.ids,
            max_new_tokens: request.max_new_tokens,
            stop_ids: request.stop_ids,
            chooser,
            events,
            // The thread numbers policies.
            policy: 0,
            origin: Origin::Dense,
            dense_pages: None,
            watch: request.watch,
            cached: None,
            computed: 0,
            pages: Vec::new(),
            entered: 0,
            first_sparse: None,
            needs: None,
        };
        if sequence.max_new_tokens == 0 {
            sequence.finish(FinishReason::Length);
            return Ok(answer);
        }
        let EngineConfig {
            max_sequences,
            queue,
            ..
        } = inner.config;
        if !inner.shared.enter(max_sequences.saturating_add(queue)) {
            return Err(SubmitError::QueueFull { queue });
        }
        let command = Command::Submit(Box::new(sequence), request.policy);
        let sent = inner.commands.send(command);
        sent.map(|()| answer).map_err(|_| SubmitError::Ended)
    }

    /// What the engine is at.
    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// Whether requests are taken.
    pub fn is_running(&self) -> bool {
        self.inner.shared.state() == State::Running
    }

    /// Takes no further request, and waits until those that were taken have ended. Whoever cannot wait for
    /// them drops their answers.
    pub fn shutdown(&self) {
        self.inner.shared.set(State::ShuttingDown);
        let _ = self.inner.commands.send(Command::Shutdown);
        let thread = self.inner.thread.lock();
        let mut thread = thread.unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // It catches panics of the model; any other is reported on stderr already.
            let _ = thread.join();
        }
    }

    /// The model.
    pub fn model(&self) -> &LocalModel {
        &self.inner.model
    }

    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Tokens that all pages hold together.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }
}

impl Inner {
    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let vocab_size = self.model.model().vocab_size();
        let (prompt, new_tokens) = (request.ids.len(), request.max_new_tokens);
        let config = GenerationConfig::new()
            .with_max_new_tokens(new_tokens)
            .with_sampling(request.sampling.clone());
        config.check(&request.ids, vocab_size)?;
        check_context(prompt, new_tokens, Some(self.model.context()))?;
        // The last new token is not fed back.
        if prompt + new_tokens.saturating_sub(1) > self.capacity {
            return Err(SubmitError::Capacity {
                capacity: self.capacity,
                prompt,
                new_tokens,
            });
        }
        if let Policy::Quest(config) = &request.policy {
            config.validate_for(self.model.page_size())?;
        }
        let adjustments = &request.adjustments;
        let biased = adjustments.bias.iter().map(|&(id, _)| id);
        check_ids(&biased.collect::<Vec<_>>(), vocab_size)?;
        let penalties = [
            ("presence penalty", adjustments.presence_penalty),
            ("frequency penalty", adjustments.frequency_penalty),
        ];
        let biases = adjustments.bias.iter().map(|&(_, bias)| ("bias", bias));
        let mut numbers = penalties.into_iter().chain(biases);
        match numbers.find(|(_, number)| !number.is_finite()) {
            Some((what, found)) => Err(SubmitError::NotFinite { what, found }),
            None => Ok(()),
        }
    }
}
