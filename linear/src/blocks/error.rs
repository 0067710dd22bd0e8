use thiserror::Error;

use super::BlockFormat;

/// Bytes that are no blocks of a format.
#[derive(Error, Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// A row does not consist of whole blocks.
    #[error("{format} weights: expected rows of a multiple of {}, found {weights}", .format.weights_per_block())]
    Row {
        /// The format of the blocks.
        format: BlockFormat,
        /// Weights of the row.
        weights: usize,
    },
    /// There are more bytes than can be counted.
    #[error(
        "{format} weights: expected fewer than 2^{} bytes, found {weights} weights",
        usize::BITS
    )]
    TooLarge {
        /// The format of the blocks.
        format: BlockFormat,
        /// Weights of the row.
        weights: usize,
    },
    /// There are too few bytes or too many.
    #[error("{format} weights: expected {expected} bytes for {weights} weights, found {found}")]
    Bytes {
        /// The format of the blocks.
        format: BlockFormat,
        /// Weights that the bytes are to be.
        weights: usize,
        /// Bytes of so many weights.
        expected: usize,
        /// Bytes that there are.
        found: usize,
    },
}
