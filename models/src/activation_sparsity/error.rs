use std::{io, path::PathBuf};

use quest_burn::inference::QuantizationError;
use thiserror::Error;

use super::Projection;
use crate::generation::GenerateError;

/// Why a model cannot skip channels as asked.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum SparsityError {
    /// A share that is none.
    #[error("sparsity: expected a share of the channels from 0 to below 1, found {0}")]
    Sparsity(f64),
    /// Factors that would be no smaller than the weights.
    #[error(
        "rank: expected from 0 to {most}, half of the fewest channels of a projection, found {found}"
    )]
    Rank {
        /// The largest rank.
        most: usize,
        /// What was asked for.
        found: usize,
    },
    /// A text that says nothing about thresholds.
    #[error("text: expected at least {least} tokens to calibrate on, found {found}")]
    TooShort {
        /// Fewest tokens.
        least: usize,
        /// Tokens of the text.
        found: usize,
    },
    /// An activation is no number.
    #[error("layer {layer}, {}: expected finite activations, found others", projection.name())]
    NotFinite {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: Projection,
    },
    /// The text could not be run through the model.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The model has experts.
    #[error(transparent)]
    Experts(#[from] ExpertsError),
    /// Nothing is skipped on this device.
    #[error(
        "activation sparsity: expected the CPU (flex) or a GPU with plane (subgroup) operations, where skipped \
         channels are not read, found {0}"
    )]
    Device(String),
    /// Weights are in a form of which no channels are skipped.
    #[error(
        "activation sparsity: expected weights in full, in int8 or in blocks of a GGUF file, found {0}"
    )]
    Form(String),
    /// The weights cannot be rounded.
    #[error(transparent)]
    Rounding(#[from] QuantizationError),
    /// A file cannot be read or written.
    #[error("{}: expected a file that can be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Read or written.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file is no file of activation sparsity, or garbled.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// The file is of a model of another shape.
    #[error(
        "activation sparsity: expected that of a model with {field} {expected}, found one with {found}"
    )]
    Shape {
        /// The size.
        field: &'static str,
        /// That of the model.
        expected: usize,
        /// That in the file.
        found: usize,
    },
    /// The file is of a model with other weights.
    #[error(
        "activation sparsity: layer {layer}, {}: expected the weights that were calibrated (fingerprint \
         {expected:.2}), found others ({found:.2}): it is of another model",
        projection.name()
    )]
    Weights {
        /// The layer.
        layer: usize,
        /// The projection.
        projection: Projection,
        /// The fingerprint in the file.
        expected: f32,
        /// That of the model's weights.
        found: f32,
    },
}

/// A layer has experts.
#[derive(Error, Debug, Clone, Copy, PartialEq, Eq)]
#[error(
    "activation sparsity: expected layers of one feed-forward block, found experts in layer {layer}"
)]
pub struct ExpertsError {
    /// The layer.
    pub layer: usize,
}
