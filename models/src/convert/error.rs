use std::{io, path::PathBuf};

use quest_burn::inference::QuantizationError;
use thiserror::Error;

use crate::error::ModelError;

/// Why a checkpoint cannot be converted.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum ConvertError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] ModelError),
    /// Quantised weights have a dtype of their own.
    #[error(
        "{}: expected weights in full to cast or round them, found weights in {bits} bits",
        path.display()
    )]
    Quantized {
        /// The checkpoint.
        path: PathBuf,
        /// Bits of a weight.
        bits: usize,
    },
    /// Experts and merged projections are not rounded.
    #[error("{}: unsupported weights `{format}` of {of}; supported: full", path.display())]
    Unrounded {
        /// The checkpoint.
        path: PathBuf,
        /// The form that was asked for.
        format: &'static str,
        /// What the weights are.
        of: &'static str,
    },
    /// The outputs of a projection do not fill whole words.
    #[error(
        "tensor `{name}`: expected a multiple of {multiple} outputs to round them, found {found}"
    )]
    Outputs {
        /// The tensor.
        name: String,
        /// Outputs of a word.
        multiple: usize,
        /// Its outputs.
        found: usize,
    },
    /// The weights cannot be rounded as asked for.
    #[error(transparent)]
    Rounding(#[from] QuantizationError),
    /// A tensor is of a type that the format does not have.
    #[error("tensor `{name}`: expected a type that {format} has, found {dtype}")]
    DType {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
        /// The format.
        format: &'static str,
    },
    /// A file cannot be written.
    #[error("{}: expected a file that can be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A tensor cannot be read, or a file of them not be written.
    #[error("{}: {problem}", path.display())]
    Weights {
        /// The file that was written.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// It was stopped.
    #[error("the conversion was stopped")]
    Stopped,
}
