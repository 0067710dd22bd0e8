//! RULER's synthetic tasks ([arXiv 2404.06654](https://arxiv.org/abs/2404.06654)), made here: needles,
//! chains of variables, common and frequent words, and questions about documents of a file.
//!
//! What lies before the question is prefilled densely; the question is fed token by token, so that
//! every policy chooses what it reads, and continues with greedy tokens. The score of an answer is that
//! of RULER: the share of the expected strings that are in it, or, of several right answers to one
//! question, whether any is.
//!
//! The wording is RULER's. Other than there, no solved example comes before `vt` and `cwe`, words are
//! drawn from lists of our own, and needles lie at evenly spaced depths.

mod documents;
mod experiment;
mod fit;
mod haystack;
mod needles;
mod report;
mod score;
mod task;
mod variables;
mod vocabulary;
mod words;

pub use documents::{Document, DocumentError, documents};
pub use experiment::{RulerConfig, RulerOutcome, RulerRow, rows, run};
pub use fit::RulerPrompt;
pub use haystack::Haystack;
pub use report::{figure, table};
pub use score::score;
pub use task::{RulerTask, UnknownTask};
