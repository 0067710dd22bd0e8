use burn::tensor::ExecutionError;
use thiserror::Error;

use crate::cache::CacheError;

/// Why a [`DecodeGraph`](super::DecodeGraph) or a [`BatchGraph`](super::BatchGraph) could not go on.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// The cache refused a step.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// There is not one token per sequence.
    #[error("tokens: expected one for each of {batch} sequences, found {found}")]
    Tokens {
        /// Sequences of the cache.
        batch: usize,
        /// Tokens that were given.
        found: usize,
    },
    /// A token is outside the vocabulary.
    #[error(
        "tokens: expected ids below the vocabulary size {vocab_size}, found {token} for sequence \
         {sequence}"
    )]
    Token {
        /// The id.
        token: u32,
        /// The sequence that it was given for.
        sequence: usize,
        /// Number of tokens that the model knows.
        vocab_size: usize,
    },
    /// A recorded step is given more sequences than it was recorded for.
    #[error("recorded step: expected at most {most} sequences, found {found}")]
    Batch {
        /// Sequences that it was recorded for.
        most: usize,
        /// Sequences that were given.
        found: usize,
    },
    /// A sequence has more pages than the step was recorded for.
    #[error("recorded step: expected at most {most} pages of sequence {sequence}, found {found}")]
    Pages {
        /// The sequence.
        sequence: usize,
        /// Pages that it was recorded for.
        most: usize,
        /// Pages that the sequence takes.
        found: usize,
    },
    /// A sequence of a recorded decode step gains more than a token.
    #[error("recorded step: expected 1 new token of sequence {sequence}, found {found}")]
    NewTokens {
        /// The sequence.
        sequence: usize,
        /// Tokens that it was to gain.
        found: usize,
    },
    /// The step of another cache was recorded, or of this one with other memory.
    #[error(
        "recorded step: expected the KV cache that it was recorded over, found another one or one that has \
         other memory since"
    )]
    OtherCache,
    /// The logits have no highest: one is NaN or infinite, or all are negative infinity.
    #[error(
        "logits of sequence {sequence} after {length} tokens: expected finite numbers or -inf, \
         found none or others"
    )]
    Logits {
        /// The sequence.
        sequence: usize,
        /// Tokens that it held.
        length: usize,
    },
    /// The device failed.
    #[error("the device failed")]
    Device(#[from] ExecutionError),
}
