use thiserror::Error;

/// A [`SamplingConfig`](super::SamplingConfig) that cannot be used.
#[derive(Error, Debug, Clone, Copy, PartialEq)]
pub enum SamplingConfigError {
    /// The temperature is negative or not finite.
    #[error("temperature: expected a finite number of at least 0, found {0}")]
    Temperature(f64),
    /// No token would be kept.
    #[error("top-k: expected at least 1, found 0")]
    TopK,
    /// The probability mass is outside (0, 1].
    #[error("top-p: expected a number above 0 and at most 1, found {0}")]
    TopP(f64),
    /// The share of the highest probability is outside [0, 1].
    #[error("min-p: expected a number from 0 to 1, found {0}")]
    MinP(f64),
    /// The penalty is not a positive finite number.
    #[error("repetition penalty: expected a finite number above 0, found {0}")]
    RepetitionPenalty(f64),
}

/// Logits that no token can be chosen from.
#[derive(Error, Debug, Clone, Copy, PartialEq)]
pub enum SampleError {
    /// A logit is NaN or positive infinity, after the repetition penalty.
    #[error("logits: expected a finite number or -inf for token {id}, found {value}")]
    NotFinite {
        /// The token whose logit it is.
        id: u32,
        /// What was found.
        value: f64,
    },
    /// Every logit is negative infinity, or there is none.
    #[error("logits: expected at least one of {n} above -inf, found none")]
    NoCandidate {
        /// Number of logits.
        n: usize,
    },
}
