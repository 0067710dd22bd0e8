//! What the server asks of an engine.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use thiserror::Error;

use crate::grammar::{CompiledGrammar, Grammar};

/// An engine that many answers come from at once.
pub trait Backend: Send + Sync + 'static {
    /// Takes a request on.
    ///
    /// # Errors
    ///
    /// When the engine does not take it.
    fn submit(&self, request: Generate) -> Result<Box<dyn Answer>, SubmitError>;

    /// Compiles what answers have to be. This may take a while.
    ///
    /// # Errors
    ///
    /// When it makes no sense or takes too much: what was expected and found.
    fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, String>;

    /// What the engine is at.
    fn stats(&self) -> Stats;

    /// Whether it can still answer.
    fn is_running(&self) -> bool;
}

/// An answer on its way. Dropping it cancels the request.
pub trait Answer: Send {
    /// What happened next; `None` after the last event. Events that nobody takes are kept.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>>;
}

/// Several answers, in the order in which their tokens come.
pub(crate) struct Answers {
    answers: Vec<Option<Box<dyn Answer>>>,
    /// Who is asked first, so that no answer starves another.
    first: usize,
}

impl Answers {
    pub(crate) fn new(answers: Vec<Box<dyn Answer>>) -> Self {
        Self {
            answers: answers.into_iter().map(Some).collect(),
            first: 0,
        }
    }

    /// The next event, and whose it is; `None` once all answers have ended. An answer that ends without
    /// saying so has no event.
    pub(crate) async fn next(&mut self) -> Option<(usize, Option<Event>)> {
        poll_fn(|context| {
            let n = self.answers.len();
            let mut is_waiting = false;
            for index in (0..n).map(|offset| (self.first + offset) % n) {
                let Some(answer) = &mut self.answers[index] else {
                    continue;
                };
                match answer.poll_next(context) {
                    Poll::Pending => is_waiting = true,
                    Poll::Ready(event) => {
                        self.first = (index + 1) % n;
                        if event.is_none() {
                            self.cancel(index);
                        }
                        return Poll::Ready(Some((index, event)));
                    }
                }
            }
            match is_waiting {
                true => Poll::Pending,
                false => Poll::Ready(None),
            }
        })
        .await
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn cancel(&mut self, index: usize) {
        self.answers[index] = None;
    }
}

/// What is asked of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// The prompt.
    pub ids: Vec<u32>,
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Tokens that end the answer.
    pub stop_ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Log-probabilities of each token and of so many of the most probable ones.
    pub logprobs: Option<usize>,
    /// What new tokens attend to.
    pub policy: Policy,
    /// What the answer has to be.
    pub grammar: Option<CompiledGrammar>,
    /// Whether tokens come with the pages that were read for them.
    pub watch: bool,
}

/// How tokens are chosen. What is not given is as the engine has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: Option<f64>,
    /// Draws from so many of the most probable tokens; 0 for all.
    pub top_k: Option<usize>,
    /// Draws from the most probable tokens that hold this probability together.
    pub top_p: Option<f64>,
    /// Draws from tokens of at least this share of the highest probability.
    pub min_p: Option<f64>,
    /// Makes tokens that occurred before less probable.
    pub repetition_penalty: Option<f64>,
    /// Taken off the logits of tokens that the answer has.
    pub presence_penalty: f64,
    /// Taken off the logits of tokens for each time that the answer has them.
    pub frequency_penalty: f64,
    /// Added to the logits of single tokens.
    pub bias: Vec<(u32, f64)>,
    /// Seed of the draws.
    pub seed: u64,
}

/// What new tokens attend to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// What the server was started with.
    #[default]
    Default,
    /// Everything.
    Dense,
    /// The pages that Quest chooses.
    Quest {
        /// Tokens that a new token attends to, where the request says.
        token_budget: Option<usize>,
    },
}

/// What happens to an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new token, also the stop token that ends an answer.
    Token(Token),
    /// The end.
    Finished {
        /// Whether a stop token came or the grammar ended, and not the last token that was asked for.
        is_stop: bool,
        /// What it took.
        usage: Usage,
    },
    /// The answer cannot be gone on with, and why.
    Failed(String),
    /// Its grammar asks for more than may be, and what.
    GrammarFailed(String),
}

/// A token of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probability, where it was asked for.
    pub logprob: Option<f32>,
    /// The most probable tokens at its place.
    pub top: Vec<(u32, f32)>,
    /// What layers read for it, where that was asked for.
    pub reads: Vec<LayerRead>,
}

/// What one layer read for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRead {
    /// The layer.
    pub layer: usize,
    /// Pages by their places in the sequence, ascending; `None` where every page was read.
    pub pages: Option<Vec<u32>>,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub new_tokens: usize,
}

/// What an engine is at, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the KV cache.
    pub pages: usize,
    /// Pages that running sequences hold.
    pub used_pages: usize,
    /// Pages that are kept for requests that begin alike.
    pub cached_pages: usize,
    /// Steps.
    pub steps: u64,
    /// Decode steps that were replays of a recording.
    pub recorded_steps: u64,
    /// Decode steps that were launched kernel by kernel.
    pub plain_steps: u64,
    /// Tokens of prompts, with those that were in the cache.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were in the cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub new_tokens: u64,
    /// Answers that reached their end.
    pub finished: u64,
    /// Answers that nobody waited for any more.
    pub cancelled: u64,
    /// Answers that failed.
    pub failed: u64,
    /// How often a sequence gave its pages up and was computed again.
    pub preemptions: u64,
}

/// Why a request was not taken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The request makes no sense for this model.
    #[error("{message}")]
    Invalid {
        /// The parameter, as the interface calls it, where it is known.
        param: Option<&'static str>,
        /// What was expected and found.
        message: String,
    },
    /// As many requests wait as may.
    #[error("{0}")]
    QueueFull(String),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The engine failed.
    #[error("{0}")]
    Failed(String),
}
