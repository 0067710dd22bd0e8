use burn::config::Config;

use crate::EngineError;

/// Sizes of an [`Engine`](crate::Engine).
#[derive(Config, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens that the pages of all sequences hold together, running ones and those that are kept.
    pub pool_tokens: usize,
    /// Sequences that run at once.
    #[config(default = 32)]
    pub max_sequences: usize,
    /// Requests that wait at most; further ones are refused.
    #[config(default = 256)]
    pub queue: usize,
    /// Query tokens of a step: one of each sequence that decodes, the rest of prompts. It bounds how long
    /// a prompt delays the tokens of others.
    #[config(default = 512)]
    pub step_tokens: usize,
    /// Whether pages of finished sequences are kept for requests that begin alike, until they are needed.
    #[config(default = true)]
    pub prefix_cache: bool,
    /// Whether decode steps are recorded and replayed where the device, the model and the policy allow it
    /// (`quest_burn::decode::BatchGraph`). While a step is recorded nothing else in the process may use the device.
    #[config(default = true)]
    pub recording: bool,
}

impl EngineConfig {
    /// Query tokens beside one of each sequence that a step has at least, so that prompts get on.
    pub const MIN_PROMPT_TOKENS: usize = 32;

    /// Recordings of decode steps that there are at once, at most: twelve that are kept, and one that is being made. Each
    /// keeps memory of the device.
    pub const MAX_RECORDINGS: usize = 13;

    /// Checks what does not depend on a model.
    ///
    /// # Errors
    ///
    /// When a size is zero, or steps have too few tokens for that many sequences.
    pub fn validate(&self) -> Result<(), EngineError> {
        for (what, value) in [
            ("pool", self.pool_tokens),
            ("sequences at once", self.max_sequences),
            ("queue", self.queue),
        ] {
            if value == 0 {
                return Err(EngineError::Empty(what));
            }
        }
        let least = self.max_sequences.saturating_add(Self::MIN_PROMPT_TOKENS);
        if self.step_tokens < least {
            return Err(EngineError::StepTokens {
                least,
                max_sequences: self.max_sequences,
                found: self.step_tokens,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        EngineConfig::new(1).validate().unwrap();
        for (config, message) in [
            (EngineConfig::new(0), "pool: expected at least 1, found 0"),
            (
                EngineConfig::new(1).with_max_sequences(0),
                "sequences at once: expected at least 1, found 0",
            ),
            (
                EngineConfig::new(1).with_queue(0),
                "queue: expected at least 1, found 0",
            ),
            (
                EngineConfig::new(1).with_step_tokens(63),
                "tokens of a step: expected at least 64 for 32 sequences at once, found 63",
            ),
        ] {
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
    }
}
