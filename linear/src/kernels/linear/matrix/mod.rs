//! Packed weights by matrix instructions of bytes, which leave so few operations to a weight that
//! memory is the limit.
//!
//! A weight of 8 bits is a byte as it is; of those of 4 bits one mask keeps every second one, another the
//! rest, 16 times as large. LHS rows become integers of two digits to the base of 256, in units
//! that the largest channel of each block decides: no block is rounded by more than half precision
//! would round it once. Zero points are left to the end of a block, where they multiply the sum of its LHS
//! row; the mean of the squares is left to the very end.
//!
//! An instruction has eight columns, of which an LHS row takes two. Where LHS rows are few, the
//! other columns are for further blocks of them, and the instruction takes these blocks of fewer
//! weight rows: memory is read in long runs. Products of one block's weights with another block of
//! the LHS row are not used.

mod kernel;
mod lhs;
mod products;
mod shape;
mod weights;

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

pub(super) use self::shape::MatrixShape;
use self::{
    kernel::matrix_kernel,
    shape::{CUBES_PER_MULTIPROCESSOR, PLANES, WIDTH, WORDS},
};
use super::{
    super::{
        launch::{address_type, empty, multiprocessors},
        matrix_instruction::PLANE,
        operands::Inputs,
    },
    args::{ActivationsArgLaunch, BoundWeights, output_arg},
};

/// Products of a few rows with every packed weight row, and what goes before and follows.
pub(super) fn matrix_gemv(
    inputs: Inputs<CubeBackend>,
    weights: BoundWeights,
    shape: MatrixShape,
) -> CubeTensor {
    let rows = into_contiguous(inputs.rows);
    let n = weights.words.meta.shape()[0];
    let columns = n / shape.epilogue.per_output();
    let cubes = columns
        .div_ceil(shape.outputs())
        .min(CUBES_PER_MULTIPROCESSOR * multiprocessors(&rows));
    let output = empty(&rows, [shape.lhs_rows, columns], rows.dtype);
    let client = rows.client.clone();
    let address = address_type(&[&weights.words, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    // SAFETY: blocks and weight rows are clamped to their numbers, outputs masked; the shapes were
    // checked before the operation was registered.
    unsafe {
        matrix_kernel::launch_unchecked(
            &client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address,
            WIDTH,
            WORDS,
            weights.head_width,
            ActivationsArgLaunch::new(
                rows.into_tensor_arg(),
                into_contiguous(inputs.gamma).into_tensor_arg(),
                inputs.epsilon,
            ),
            weights.into_arg(),
            output_arg(inputs.bias, inputs.residual, &output),
            shape,
            dtype,
        );
    }
    output
}
