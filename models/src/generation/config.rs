use burn::config::Config;

use super::GenerateError;
use crate::sampling::SamplingConfig;

/// How a [`Generator`](super::Generator) goes on from a prompt.
#[derive(Config, Debug, PartialEq)]
pub struct GenerationConfig {
    /// New tokens at most.
    #[config(default = 128)]
    pub max_new_tokens: usize,
    /// Tokens that end the generation; the one that did is given out last. When not given, those of
    /// the checkpoint in a [`Session`](crate::session::Session), and none in a
    /// [`Generator`](super::Generator), which knows no checkpoint.
    pub stop_ids: Option<Vec<u32>>,
    /// Texts that end the generation and are not given out, where text is generated.
    #[config(default = "Vec::new()")]
    pub stop_strings: Vec<String>,
    /// Tokens of the prompt that go through the model at once.
    #[config(default = 512)]
    pub prefill_chunk: usize,
    /// Tokens that prompt and new tokens may take together; what the cache holds when not given.
    pub max_context: Option<usize>,
    /// How the next token is chosen.
    #[config(default = "SamplingConfig::new()")]
    pub sampling: SamplingConfig,
    /// Whether decode steps are recorded once and replayed where the device can.
    #[config(default = true)]
    pub capture: bool,
}

impl GenerationConfig {
    /// Checks what can be known before a model is loaded: the configuration itself, and that a
    /// prompt at the beginning of the context can be gone on from.
    ///
    /// # Errors
    ///
    /// When the prompt is empty, holds an id outside the vocabulary, or is too long together with
    /// the new tokens; when the chunk is empty or the sampling configuration invalid.
    pub fn check(&self, prompt: &[u32], vocab_size: usize) -> Result<(), GenerateError> {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if self.prefill_chunk == 0 {
            return Err(GenerateError::Chunk);
        }
        self.sampling.validate()?;
        check_ids(prompt, vocab_size)?;
        check_context(prompt.len(), self.max_new_tokens, self.max_context)
    }
}

/// Refuses ids outside the vocabulary.
///
/// # Errors
///
/// Names the first such id and where it is.
pub fn check_ids(ids: &[u32], vocab_size: usize) -> Result<(), GenerateError> {
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(index) => Err(GenerateError::Id {
            id: ids[index],
            index,
            vocab_size,
        }),
    }
}

/// Refuses more tokens than the context has.
///
/// # Errors
///
/// When prompt and new tokens are more than the limit, if there is one.
pub fn check_context(
    prompt: usize,
    new_tokens: usize,
    limit: Option<usize>,
) -> Result<(), GenerateError> {
    match limit {
        Some(limit) if prompt.saturating_add(new_tokens) > limit => Err(GenerateError::Context {
            prompt,
            new_tokens,
            limit,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_refused(config: &GenerationConfig, prompt: &[u32], message: &str) {
        let error = config.check(prompt, 10).unwrap_err();
        assert!(error.is_bad_request());
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn prompts_that_cannot_be_gone_on_from_are_refused() {
        let config = GenerationConfig::new()
            .with_max_new_tokens(3)
            .with_max_context(Some(5));
        config.check(&[9, 0], 10).unwrap();
        assert_refused(
            &config,
            &[],
            "prompt: expected at least one token, found none",
        );
        assert_refused(
            &config,
            &[9, 10],
            "token ids: expected ids below the vocabulary size 10, found 10 at index 1",
        );
        assert_refused(
            &config,
            &[1; 3],
            "context: expected at most 5 tokens, found a prompt of 3 and 3 new tokens",
        );
        assert_refused(
            &config.with_max_new_tokens(0),
            &[1; 6],
            "context: expected at most 5 tokens, found 6",
        );
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        let config = GenerationConfig::new().with_prefill_chunk(0);
        assert_refused(
            &config,
            &[1],
            "prefill chunk: expected at least 1 token, found 0",
        );
        let config = GenerationConfig::new().with_sampling(SamplingConfig::new().with_top_p(2.0));
        assert!(matches!(
            config.check(&[1], 10),
            Err(GenerateError::Sampling(_))
        ));
    }
}
