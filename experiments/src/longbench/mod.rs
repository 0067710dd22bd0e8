//! LongBench (Bai et al., 2023): question answering and summaries over long texts, as the Quest
//! paper evaluates them.
//!
//! The data is LongBench's own and read from its files; prompts follow its structure in other
//! words. Instruction and context are prefilled densely, the question is fed token by token
//! through a policy, and so is the answer that the model gives.

mod dataset;
mod evaluation;
mod metrics;
mod prompt;
mod report;
mod task;

pub use dataset::{DatasetError, Record, TaskData};
pub use evaluation::{LongBenchConfig, LongBenchRow, Prediction, rows, run};
pub use metrics::Metric;
pub use prompt::{Prompt, PromptError, PromptIds};
pub use report::{figure, table};
pub use task::{Task, UnknownTask};
