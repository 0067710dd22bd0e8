use burn::tensor::ExecutionError;
use quest_burn::{
    QuestConfigError,
    cache::CacheError,
    inference::QuantizationError,
    policy::{PolicyError, PrefillConfigError},
};
use thiserror::Error;

/// Why a benchmark gives no result.
#[derive(Error, Debug)]
pub enum BenchError {
    /// An option cannot be served.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// A configuration of Quest is not valid.
    #[error(transparent)]
    Quest(#[from] QuestConfigError),
    /// A policy cannot be made as asked for.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Prompts cannot be read as asked for.
    #[error(transparent)]
    Prefill(#[from] PrefillConfigError),
    /// A KV cache is not valid.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Weights cannot be rounded as asked for.
    #[error(transparent)]
    Quantization(#[from] QuantizationError),
    /// A checkpoint cannot be loaded.
    #[cfg(feature = "models")]
    #[error(transparent)]
    Model(#[from] quest_burn_models::ModelError),
    /// The device failed.
    #[error("device: {0}")]
    Device(#[from] ExecutionError),
    /// A timed operation computed something else than it should have: its time means nothing.
    #[error("{operation}: expected {expected}, found {found}")]
    Wrong {
        /// The operation, and where in its result.
        operation: String,
        /// What the untimed computation gives.
        expected: String,
        /// What was timed.
        found: String,
    },
    /// A decode step failed.
    #[cfg(feature = "models")]
    #[error(transparent)]
    Decode(#[from] quest_burn::decode::DecodeError),
    /// A prompt failed.
    #[cfg(feature = "models")]
    #[error(transparent)]
    Generate(#[from] quest_burn_models::generation::GenerateError),
    /// An engine cannot be started.
    #[cfg(feature = "models")]
    #[error(transparent)]
    Engine(#[from] quest_burn_engine::EngineError),
    /// An engine refused a request.
    #[cfg(feature = "models")]
    #[error(transparent)]
    Submit(#[from] quest_burn_engine::SubmitError),
    /// An answer of an engine failed.
    #[cfg(feature = "models")]
    #[error("answer: {0}")]
    Answer(String),
    /// A server did not answer as it should have: where, what was expected and found.
    #[cfg(feature = "serve")]
    #[error("{0}")]
    Server(String),
    /// Some measurements failed; the others gave results.
    #[error("measurements: expected all to give a result, found {failed} that failed")]
    Failed {
        /// How many.
        failed: usize,
    },
    /// Who read the results has read enough, as `head` has after a line.
    #[error("stdout: expected a reader, found none")]
    StdoutClosed,
    /// A result could not be written.
    #[error("{path}: {message}")]
    Write {
        /// The file, or `stdout`.
        path: String,
        /// Why.
        message: String,
    },
}

impl BenchError {
    /// Whether what was asked for cannot be done, rather than something having failed on the way.
    pub fn is_bad_request(&self) -> bool {
        match self {
            Self::Quantization(QuantizationError::Device(_)) => false,
            Self::Option { .. }
            | Self::Quest(_)
            | Self::Policy(_)
            | Self::Prefill(_)
            | Self::Cache(_)
            | Self::Quantization(_) => true,
            #[cfg(feature = "models")]
            Self::Model(_) | Self::Engine(_) | Self::Submit(_) => true,
            #[cfg(feature = "models")]
            Self::Generate(error) => error.is_bad_request(),
            #[cfg(feature = "models")]
            Self::Decode(_) | Self::Answer(_) => false,
            #[cfg(feature = "serve")]
            Self::Server(_) => false,
            Self::Device(_)
            | Self::Wrong { .. }
            | Self::Failed { .. }
            | Self::StdoutClosed
            | Self::Write { .. } => false,
        }
    }
}
