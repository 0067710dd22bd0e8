use quest_burn::{cache::CacheError, policy::PrefillConfig};
use quest_burn_models::generation::GenerateError;
use thiserror::Error;

/// Why an engine cannot start.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// A size is zero.
    #[error("{0}: expected at least 1, found 0")]
    Empty(&'static str),
    /// A step could not hold a token of each sequence and some of a prompt.
    #[error(
        "tokens of a step: expected at least {least} for {max_sequences} sequences at once, found {found}"
    )]
    StepTokens {
        /// Tokens that are needed.
        least: usize,
        /// Sequences at once.
        max_sequences: usize,
        /// Tokens that were given.
        found: usize,
    },
    /// Sequences are fed together, with pages that they share.
    #[error("prompts of the engine: expected dense ones, found {0}")]
    Prefill(PrefillConfig),
    /// The KV cache cannot be made.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The system gives no thread.
    #[error("thread of the engine: {0}")]
    Thread(#[source] std::io::Error),
    /// The thread ended before it was ready.
    #[error("the engine has ended before it was ready")]
    Ended,
}

/// Why a request was not taken.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum SubmitError {
    /// The request makes no sense, or not for this model: a prompt that is empty, too long or has ids
    /// outside the vocabulary, or a sampling configuration out of range.
    #[error(transparent)]
    Request(#[from] GenerateError),
    /// The policy cannot be used with the pages of this engine.
    #[error(transparent)]
    Policy(#[from] quest_burn::QuestConfigError),
    /// A penalty or a bias is not a finite number.
    #[error("{what}: expected a finite number, found {found}")]
    NotFinite {
        /// What it is.
        what: &'static str,
        /// What was given.
        found: f32,
    },
    /// Prompt and answer would not fit the pages of the engine, however few others there are.
    #[error(
        "KV cache: expected at most {capacity} tokens, found a prompt of {prompt} and {new_tokens} new tokens"
    )]
    Capacity {
        /// Tokens that all pages hold.
        capacity: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens at most.
        new_tokens: usize,
    },
    /// As many requests wait as may.
    #[error("queue: expected fewer than {queue} waiting requests, found {queue}")]
    QueueFull {
        /// Requests that may wait.
        queue: usize,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The engine has ended after an error of its device.
    #[error("the engine has ended")]
    Ended,
}
