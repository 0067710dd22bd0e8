use burn::tensor::ExecutionError;
use quest_burn::{cache::CacheError, decode::DecodeError, policy::PrefillConfigError};
use thiserror::Error;

use crate::{
    sampling::{MaskError, SampleError, SamplingConfigError},
    tokenizer::{Tokenizer, TokenizerError},
};

/// Why ids could not be generated or scored.
#[derive(Error, Debug)]
pub enum GenerateError {
    /// There is nothing to go on from.
    #[error("prompt: expected at least one token, found none")]
    EmptyPrompt,
    /// An id has no row in the embedding.
    #[error(
        "token ids: expected ids below the vocabulary size {vocab_size}, found {id} at index {index}"
    )]
    Id {
        /// The id.
        id: u32,
        /// Where it is in the list.
        index: usize,
        /// Number of tokens that the model knows.
        vocab_size: usize,
    },
    /// Prompt and new tokens are longer than the context.
    #[error("context: expected at most {limit} tokens, found {}", tokens(*.prompt, *.new_tokens))]
    Context {
        /// Tokens of the prompt, and of what the cache held before it.
        prompt: usize,
        /// New tokens that were asked for.
        new_tokens: usize,
        /// The longest context.
        limit: usize,
    },
    /// Prompt and new tokens do not fit into the cache.
    #[error("KV cache: expected at most {capacity} tokens, found {}", tokens(*.prompt, *.new_tokens))]
    Capacity {
        /// Tokens of the prompt, and of what the cache held before it.
        prompt: usize,
        /// New tokens that were asked for.
        new_tokens: usize,
        /// Tokens that the cache can hold.
        capacity: usize,
    },
    /// The cache is for several sequences.
    #[error("KV cache: expected one sequence, found {batch}")]
    Batch {
        /// Sequences of the cache.
        batch: usize,
    },
    /// A prompt cannot be prefilled in chunks of nothing.
    #[error("prefill chunk: expected at least 1 token, found 0")]
    Chunk,
    /// Nothing would be drafted.
    #[error("draft tokens: expected at least 1, found 0")]
    DraftTokens,
    /// A prompt was given up between two chunks.
    #[error("prompt: stopped before its end, as was asked for")]
    Stopped,
    /// Too few ids to score any.
    #[error("token ids: expected at least 2 to score, found {found}")]
    TooShort {
        /// Number of ids.
        found: usize,
    },
    /// The first decoded token is not among the ids.
    #[error("prefill: expected from 1 to {most} of {found} tokens, found {prefill}", most = .found - 1)]
    Prefill {
        /// Tokens that were to be prefilled.
        prefill: usize,
        /// Number of ids.
        found: usize,
    },
    /// There are no logits to choose a token by.
    #[error("logits: expected a token to be fed before, found none")]
    NothingFed,
    /// Text is asked for of a model of token ids.
    #[error("text needs {} next to the weights, found none", Tokenizer::FILE)]
    NoTokenizer,
    /// Text did not become ids, or ids text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The sampling configuration cannot be used.
    #[error(transparent)]
    Sampling(#[from] SamplingConfigError),
    /// Prompts cannot be read as was asked for.
    #[error(transparent)]
    PrefillPolicy(#[from] PrefillConfigError),
    /// The cache refused a step.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Recorded steps could not go on.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No token can be chosen.
    #[error("no token can be chosen after {length} tokens")]
    Sample {
        /// Tokens that the cache held.
        length: usize,
        /// What is wrong with the logits.
        source: SampleError,
    },
    /// What may come next cannot be told, or cannot be chosen.
    #[error("no token can be chosen after {length} tokens")]
    Mask {
        /// Tokens that the cache held.
        length: usize,
        /// What is wrong with the mask.
        source: MaskError,
    },
    /// Drafts do not know which tokens may come.
    #[error("lossless generation: expected an answer without a grammar, found one with a grammar")]
    MaskedDrafts,
    /// Dense attention over all tokens would verify drafts.
    #[error(
        "lossless generation: expected prompts whose tokens are in every layer, found lazy ones"
    )]
    LazyLossless,
    /// Tokens leave a prompt before there are logits after them.
    #[error(
        "likelihoods of a prompt: expected one whose tokens are in every layer, found a lazy one: only what is \
         decoded after it can be scored"
    )]
    LazyLikelihoods,
    /// The attention to all tokens says which of them come back.
    #[error(
        "tokens of lazy prompts that come back: expected a policy that keeps all pages, found one that frees some"
    )]
    LazyFreedPages,
    /// A likelihood is not a number.
    #[error("negative log-likelihood of token {index}: expected a finite number, found {value}")]
    Likelihood {
        /// Where the token is in the list.
        index: usize,
        /// What was found.
        value: f32,
    },
    /// The device failed.
    #[error("the device failed")]
    Device(#[from] ExecutionError),
}

impl GenerateError {
    /// Whether the request is at fault, rather than the computation.
    pub fn is_bad_request(&self) -> bool {
        !matches!(
            self,
            Self::Sample { .. }
                | Self::Stopped
                | Self::Tokenizer(TokenizerError::Decode(_))
                | Self::Likelihood { .. }
                | Self::Device(_)
                | Self::Decode(DecodeError::Logits { .. } | DecodeError::Device(_))
        )
    }
}

fn tokens(prompt: usize, new_tokens: usize) -> String {
    match new_tokens {
        0 => prompt.to_string(),
        _ => format!("a prompt of {prompt} and {new_tokens} new tokens"),
    }
}
