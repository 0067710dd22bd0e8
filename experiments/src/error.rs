use quest_burn::policy::PolicyError;
use quest_burn_models::{
    config::ModelConfig, generation::GenerateError, tokenizer::TokenizerError,
};
use thiserror::Error;

use crate::{
    longbench::{PromptError, Task},
    results::JournalError,
};

/// Why an experiment ended without a result.
#[derive(Error, Debug)]
pub enum ExperimentError {
    /// A setting makes no sense.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A length has no room for the task.
    #[error(
        "length: expected at least {min} tokens (the text without filler and its answer), found \
         {found}"
    )]
    TooShort {
        /// Tokens of the task and its answer.
        min: usize,
        /// Tokens that were asked for.
        found: usize,
    },
    /// A length is beyond what the model was made for.
    #[error("{setting}: the model is made for at most {max} tokens, found {found}")]
    TooLong {
        /// The setting that asks for it.
        setting: &'static str,
        /// The model's context.
        max: usize,
        /// Tokens that were asked for.
        found: usize,
    },
    /// A record of LongBench has no prompt that the model can read.
    #[error("record {id} of {task}")]
    Prompt {
        /// Its task.
        task: Task,
        /// Its `_id`.
        id: String,
        /// Why not.
        source: PromptError,
    },
    /// A policy cannot be made.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Text did not become ids, or ids text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model did not run.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Rows could not be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl ExperimentError {
    /// Whether what was asked for is at fault, rather than the computation.
    pub fn is_bad_request(&self) -> bool {
        match self {
            Self::Generate(error) => error.is_bad_request(),
            Self::Journal(error) => error.is_bad_request(),
            _ => true,
        }
    }

    /// Refuses more tokens than a model was made for, asked for by `setting`.
    pub(crate) fn check_length(
        setting: &'static str,
        found: usize,
        model: &ModelConfig,
    ) -> Result<(), Self> {
        let max = model.max_positions;
        match found > max {
            true => Err(Self::TooLong {
                setting,
                max,
                found,
            }),
            false => Ok(()),
        }
    }

    /// The error of a prompt that was to leave `answer` of `length` tokens for an answer: what is too
    /// short is the length.
    pub(crate) fn of_length(self, length: usize, answer: usize) -> Self {
        match self {
            Self::TooShort { min, .. } => Self::TooShort {
                min: min.saturating_add(answer),
                found: length,
            },
            other => other,
        }
    }

    /// A setting that makes no sense.
    pub fn setting(
        setting: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Setting {
            setting,
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
