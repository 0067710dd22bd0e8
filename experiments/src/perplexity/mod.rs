//! Perplexity of a text that is decoded token by token through a policy, against position (figure 6
//! of the paper).

mod curve;
mod experiment;
mod report;

pub use curve::{PerplexityPoint, mean, perplexity, perplexity_curve};
pub(crate) use experiment::{DECODED, check_text, prefilled};
pub use experiment::{PerplexityConfig, PerplexityRow, run};
pub use report::{figure, table};
