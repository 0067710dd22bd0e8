use burn::tensor::ExecutionError;
use thiserror::Error;

use crate::cache::CacheError;

/// Why a [`DecodeGraph`](super::DecodeGraph) could not go on.
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
