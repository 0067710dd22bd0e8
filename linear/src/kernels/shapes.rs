//! Shapes of results, which Fusion is told before a kernel runs.

use burn::{
    backend::fusion::custom::TensorSpec,
    tensor::{DType, Shape},
};

use super::operands::{InputsMetadata, WeightsMetadata};

/// Outputs of a layer.
pub(super) fn outputs(inputs: &InputsMetadata, weights: &WeightsMetadata) -> TensorSpec {
    let [n, _] = dims(weights);
    rows_of(inputs, n)
}

/// Outputs of a layer whose weights lie by input channels.
pub(super) fn sparse_outputs(inputs: &InputsMetadata, weights: &WeightsMetadata) -> TensorSpec {
    let [_, n] = dims(weights);
    rows_of(inputs, n)
}

fn rows_of(inputs: &InputsMetadata, n: usize) -> TensorSpec {
    let rows = inputs.rows.shape[0];
    let shape = Shape::from([rows, n / inputs.epilogue.per_output()]);
    TensorSpec::new(shape, inputs.rows.dtype)
}

/// Weights made whole.
pub(super) fn widened(weights: &WeightsMetadata, dtype: DType) -> TensorSpec {
    TensorSpec::new(Shape::from(dims(weights)), dtype)
}

fn dims(weights: &WeightsMetadata) -> [usize; 2] {
    match weights {
        WeightsMetadata::Full(weight) => [weight.shape[0], weight.shape[1]],
        WeightsMetadata::Groups { words, packing, .. }
        | WeightsMetadata::Blocks { words, packing, .. } => {
            [words.shape[0], words.shape[1] * packing.per_word()]
        }
    }
}
