use std::{ops::Add, time::Duration};

/// How long the two phases of a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prefill_tokens: usize,
    /// Time from the first of them to the first new token.
    pub prefill: Duration,
    /// New tokens after the first: one pass through the model each.
    pub decode_tokens: usize,
    /// Time for these.
    pub decode: Duration,
}

impl Timings {
    /// Tokens of the prompt per second, once there has been a prompt.
    pub fn prefill_tokens_per_s(&self) -> Option<f64> {
        rate(self.prefill_tokens, self.prefill)
    }

    /// Decoded tokens per second, once there has been one.
    pub fn decode_tokens_per_s(&self) -> Option<f64> {
        rate(self.decode_tokens, self.decode)
    }
}

impl Add for Timings {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            prefill_tokens: self.prefill_tokens + other.prefill_tokens,
            prefill: self.prefill + other.prefill,
            decode_tokens: self.decode_tokens + other.decode_tokens,
            decode: self.decode + other.decode,
        }
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_exist_once_there_was_work() {
        assert_eq!(Timings::default().prefill_tokens_per_s(), None);
        let timings = Timings {
            prefill_tokens: 100,
            prefill: Duration::from_millis(500),
            decode_tokens: 3,
            decode: Duration::from_secs(2),
        };
        assert_eq!(timings.prefill_tokens_per_s(), Some(200.0));
        assert_eq!(timings.decode_tokens_per_s(), Some(1.5));
    }
}
