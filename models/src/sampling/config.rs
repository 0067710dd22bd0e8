use burn::config::Config;

use super::{Sampler, SamplingConfigError};

/// How the next token is chosen from the logits. The default is greedy.
#[derive(Config, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Divides the logits. At 0 the most probable token is taken (greedy) and the filters below
    /// have no effect; the repetition penalty has.
    #[config(default = 0.0)]
    pub temperature: f64,
    /// Keeps the `k` most probable tokens.
    pub top_k: Option<usize>,
    /// Keeps the most probable tokens until their probabilities add up to this.
    #[config(default = 1.0)]
    pub top_p: f64,
    /// Keeps tokens of at least this share of the highest probability.
    #[config(default = 0.0)]
    pub min_p: f64,
    /// Divides the logits of tokens that occurred before where they are positive, multiplies them
    /// where they are negative ([CTRL](https://arxiv.org/abs/1909.05858)).
    #[config(default = 1.0)]
    pub repetition_penalty: f64,
    /// Seed of the random numbers.
    #[config(default = 0)]
    pub seed: u64,
}

impl SamplingConfig {
    /// Whether the most probable token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// See [`SamplingConfigError`].
    pub fn validate(&self) -> Result<(), SamplingConfigError> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(SamplingConfigError::Temperature(self.temperature));
        }
        if self.top_k == Some(0) {
            return Err(SamplingConfigError::TopK);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplingConfigError::TopP(self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(SamplingConfigError::MinP(self.min_p));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return Err(SamplingConfigError::RepetitionPenalty(
                self.repetition_penalty,
            ));
        }
        Ok(())
    }

    /// The sampler, at the beginning of its random numbers.
    ///
    /// # Errors
    ///
    /// When [`validate`](Self::validate) fails.
    pub fn init(&self) -> Result<Sampler, SamplingConfigError> {
        self.validate()?;
        Ok(Sampler::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_greedy_and_valid() {
        assert!(SamplingConfig::new().is_greedy());
        SamplingConfig::new().validate().unwrap();
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let config = SamplingConfig::new;
        for (bad, message) in [
            (config().with_temperature(-0.5), "temperature: expected"),
            (config().with_temperature(f64::NAN), "found NaN"),
            (config().with_temperature(f64::INFINITY), "found inf"),
            (
                config().with_top_k(Some(0)),
                "top-k: expected at least 1, found 0",
            ),
            (config().with_top_p(0.0), "top-p: expected"),
            (config().with_top_p(1.01), "found 1.01"),
            (config().with_top_p(f64::NAN), "top-p"),
            (config().with_min_p(-0.1), "min-p: expected"),
            (config().with_min_p(f64::NAN), "min-p"),
            (config().with_repetition_penalty(0.0), "repetition penalty"),
            (config().with_repetition_penalty(f64::INFINITY), "found inf"),
        ] {
            let error = bad.init().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
