use thiserror::Error;

/// Why a grammar cannot be followed.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrammarError {
    /// The source makes no sense, or uses what is not supported.
    #[error("{kind}: {problem}")]
    Invalid {
        /// What it is, such as "JSON schema".
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The source is longer than may be.
    #[error("{kind}: expected at most {max} bytes, found {found}")]
    Size {
        /// What it is.
        kind: &'static str,
        /// Bytes at most.
        max: usize,
        /// Bytes of the source.
        found: usize,
    },
    /// The source is nested deeper than may be.
    #[error("{kind}: expected at most {max} levels within each other, found more")]
    Depth {
        /// What it is.
        kind: &'static str,
        /// Levels at most.
        max: usize,
    },
    /// What the source asks for takes more than may be.
    #[error("{kind}: expected a simpler one, found one beyond the limits: {problem}")]
    TooComplex {
        /// What it is.
        kind: &'static str,
        /// Which limit it was.
        problem: String,
    },
    /// The bytes of the tokenizer's tokens cannot be told.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// Text is asked for of a model of token ids.
    #[error("a grammar needs a tokenizer next to the weights, found none")]
    NoTokenizer,
}
