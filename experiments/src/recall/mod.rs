//! What a policy reads of what matters (figure 4 of the paper): of the ten tokens with the highest
//! true attention, the share that it reads; and the share of the attention that falls on what it
//! reads.
//!
//! The last tokens of a text are fed one by one through the policy. At each of them, in every layer
//! and for every query head, what was read is compared with the attention that the query pays to
//! the whole cache.

mod chart;
mod experiment;

pub use chart::{figure, table};
pub use experiment::{LayerRecall, RecallConfig, RecallOutcome, RecallRow, rows, run};
