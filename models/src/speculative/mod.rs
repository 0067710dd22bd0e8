//! Lossless decoding: a policy drafts tokens, dense attention verifies them
//! ([speculative decoding](https://arxiv.org/abs/2211.17192) with the model itself).
//!
//! Some tokens are decoded one by one through a policy that reads few pages. Then all of them go through
//! the model at once with dense attention, and the first ones that it would have chosen too are kept, with
//! one that it chooses itself. Greedy answers are those of dense attention; sampled ones are drawn from its
//! distribution. What the policy loses costs time and no quality.
//!
//! Dense attention to several tokens and to one sum products up in different orders: where the two most
//! probable tokens are as close as rounding, either may be taken, as between any two kernels.

mod accept;
mod generator;
mod statistics;

pub use accept::{Draft, Verdict, verify};
pub use generator::LosslessGenerator;
pub use statistics::DraftStatistics;

use burn::config::Config;

use crate::generation::GenerateError;

/// How tokens are drafted.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct LosslessConfig {
    /// Tokens that are drafted before they are verified. A pass over one more than that is as cheap as one
    /// over a single token up to 8 of them, where layers multiply few rows with each weight that they read.
    #[config(default = 7)]
    pub draft_tokens: usize,
}

impl LosslessConfig {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// When no token would be drafted.
    pub fn validate(&self) -> Result<(), GenerateError> {
        match self.draft_tokens {
            0 => Err(GenerateError::DraftTokens),
            _ => Ok(()),
        }
    }
}
