use std::{fs, path::PathBuf};

use anyhow::Context;
use burn::tensor::DType;
use clap::{Parser, ValueEnum, builder::TypedValueParser};

use crate::schedule::Schedule;

/// Trains a small Llama that finds facts far back in its context.
#[derive(Parser, Debug)]
pub(crate) struct Options {
    /// Folder for the model, checkpoints, log and evaluation
    #[arg(long, default_value = "train-passkey")]
    pub out: PathBuf,
    /// Go on from the newest checkpoint in the folder, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Train for this many minutes at most
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Train up to this step at most
    #[arg(long)]
    pub steps: Option<u64>,
    /// A model and a schedule for a machine without a GPU
    #[arg(long)]
    pub tiny: bool,
    /// JSON file with the schedule
    #[arg(long)]
    pub schedule: Option<PathBuf>,
    /// Print the schedule and end
    #[arg(long)]
    pub print_schedule: bool,
    /// Print a text with facts and questions, as long as this many tokens, and end: the experiments
    /// of `quest` need one that the model can read
    #[arg(long, value_name = "TOKENS")]
    pub print_text: Option<usize>,
    /// Seed of the weights, texts and keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Seconds between checkpoints
    #[arg(long, default_value_t = 60)]
    pub checkpoint_every: u64,
    /// Passkey prompts of the evaluation after training; 0 for none
    #[arg(long, default_value_t = 100)]
    pub trials: usize,
    /// Tokens of a passkey prompt
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(64..).map(|n| n as usize))]
    pub evaluation_tokens: usize,
    /// Passkey prompts that are computed together
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..).map(|n| n as usize))]
    pub evaluation_batch: usize,
    /// Last tokens of a prompt that are fed one by one
    #[arg(long, default_value_t = 100)]
    pub fed: usize,
    /// Dtype of the evaluation
    #[arg(long, default_value = "f32")]
    pub evaluation_dtype: EvaluationDType,
    /// Token budgets of Quest; a sixteenth and a sixty-fourth of the prompt when not given
    #[arg(long, value_delimiter = ',')]
    pub budgets: Vec<usize>,
    /// Prompts for the evaluation with windows, which needs memory for whole score matrices
    #[arg(long, default_value_t = 0)]
    pub window_trials: usize,
}

/// A dtype that models are evaluated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvaluationDType {
    F32,
    F16,
    Bf16,
}

impl From<EvaluationDType> for DType {
    fn from(dtype: EvaluationDType) -> Self {
        match dtype {
            EvaluationDType::F32 => Self::F32,
            EvaluationDType::F16 => Self::F16,
            EvaluationDType::Bf16 => Self::BF16,
        }
    }
}

impl Options {
    /// The schedule that was asked for.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not a schedule.
    pub(crate) fn schedule(&self) -> anyhow::Result<Schedule> {
        let Some(path) = &self.schedule else {
            return Ok(match self.tiny {
                true => Schedule::tiny(),
                false => Schedule::standard(),
            });
        };
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("schedule: {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("schedule: {}", path.display()))
    }
}
