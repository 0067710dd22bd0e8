//! The accuracy experiments of the Quest paper (Tang et al., ICML 2024): protocols, metrics and
//! results, on the attention path that is timed. The `quest` program runs them.
//!
//! - [`longbench`]: question answering and summaries over long texts;
//! - [`perplexity`]: perplexity against position, by policy and budget;
//! - [`ruler`]: RULER's synthetic tasks;
//! - [`sparsity`]: the smallest budget of each layer that keeps the perplexity.
//!
//! What experiments share:
//!
//! - [`results`]: what a run was made with, and a journal of its rows, from which an
//!   interrupted run resumes;
//! - [`budget`]: token budgets, also as shares of the context;
//! - [`contender`]: a policy with a budget.
#![warn(unreachable_pub)]

pub mod budget;
pub mod contender;
pub mod demo;
mod error;
pub mod longbench;
pub mod passkey;
pub mod perplexity;
mod questions;
pub mod recall;
pub mod results;
pub mod ruler;
mod seed;
mod session;
pub mod sparsity;

pub use error::ExperimentError;
pub use questions::Comparison;
pub use session::require_tokenizer;

/// How far an experiment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are done, those of earlier runs included.
    pub done: usize,
    /// Rows that there will be.
    pub total: usize,
    /// Tokens of the current prompt that are prefilled, and tokens that will be.
    pub prefilled: Option<(usize, usize)>,
}

/// Values without repeats, in the order of their first occurrence.
fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(&value) {
            unique.push(value);
        }
    }
    unique
}
