//! Prompts by cooperative matrices, the matrix instructions of Vulkan (`cmma` in CubeCL). Which lane
//! holds which element is not known: scores and weights pass through shared memory, where the softmax is taken,
//! and the output stays in its matrices until a token's highest score rises far.

mod kernel;
mod output;
mod rows;
mod shape;
mod softmax;
mod tile;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use self::{kernel::cooperative_prefill_kernel, shape::CooperativeShape};
use super::{
    super::{
        cooperative_matrix::{WIDTH, is_spirv, word},
        matrix_instruction::PACKED,
    },
    Inputs,
};

/// How a cube is laid out, where the device has the instructions for the dtype and room for the head dim.
///
/// Metal has them as well; nobody has run the kernel there yet.
pub(super) fn shape(inputs: &Inputs) -> Option<CooperativeShape> {
    let [_, _, page_size, head_dim] = inputs.keys.meta.shape().dims::<4>();
    let dtype = inputs.query.dtype;
    if !is_spirv(&inputs.query) || !matches!(dtype, DType::F16 | DType::BF16) {
        return None;
    }
    let properties = inputs.query.client.properties();
    CooperativeShape::plan(
        properties,
        dtype_to_storage_type(dtype),
        head_dim,
        page_size,
    )
}

/// Writes the attention of every query token to `output`, by a shape that [`shape`] gave.
pub(super) fn launch(inputs: Inputs, output: CubeTensor, shape: CooperativeShape) {
    let client = inputs.query.client.clone();
    let address = inputs.address_type();
    let dtype = dtype_to_storage_type(output.dtype);
    // SAFETY: tokens are masked by the lengths and the number of rows, pages clamped to the page
    // table and the pool; the shapes were checked before the operation was registered.
    unsafe {
        cooperative_prefill_kernel::launch_unchecked(
            &client,
            inputs.cubes(shape.tokens()),
            CubeDim::new_1d(shape.units() as u32),
            address,
            WIDTH,
            PACKED,
            inputs.query.into_tensor_arg(),
            inputs.keys.into_tensor_arg(),
            inputs.values.into_tensor_arg(),
            inputs.page_table.into_tensor_arg(),
            inputs.starts.into_tensor_arg(),
            inputs.lengths.into_tensor_arg(),
            output.into_tensor_arg(),
            inputs.scale,
            shape,
            dtype,
            word(dtype, shape.packed),
        );
    }
}
