//! What results carry, and how a run that was cut goes on.

mod journal;
mod run_info;

pub use journal::{Journal, JournalError};
pub use run_info::{Build, ModelInfo, ModelInfoError, RunInfo, sha256};
