use std::path::PathBuf;

use thiserror::Error;

use crate::error::ModelError;

/// Why text did not become ids, or ids text.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("expected a tokenizer in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<ModelError>,
    },
    /// The file does not describe a tokenizer.
    #[error("expected a Hugging Face tokenizer in {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: tokenizers::Error,
    },
    /// The file describes a tokenizer that is not supported.
    #[error("{}: {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// What the checkpoint says of its tokenizer makes no sense.
    #[error(transparent)]
    Checkpoint(Box<ModelError>),
    /// The text cannot be encoded.
    #[error("text could not be encoded")]
    Encode(#[source] tokenizers::Error),
    /// The ids cannot be decoded.
    #[error("token ids could not be decoded")]
    Decode(#[source] tokenizers::Error),
}

impl From<ModelError> for TokenizerError {
    fn from(error: ModelError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}
