//! Prompts by cooperative matrices, the matrix instructions of Vulkan and Metal (`cmma` in CubeCL). Which lane
//! holds which element is not known: scores and weights pass through shared memory, where the softmax is taken,
//! and the output stays in its matrices until a token's highest score rises far.

mod kernel;
mod rows;
mod shape;
mod tile;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{kernel::cooperative_prefill_kernel, shape::CooperativeShape};
use super::{
    super::{
        cooperative_matrix::{WIDTH, is_spirv, word},
        matrix_instruction::PACKED,
    },
    Inputs,
};

/// Whether a device has the instructions for a dtype, and room for the head dim.
pub(super) fn supports(properties: &DeviceProperties, dtype: DType, head_dim: usize) -> bool {
    plan(properties, dtype, head_dim, 1).is_some()
}

fn plan(
    properties: &DeviceProperties,
    dtype: DType,
    head_dim: usize,
    page_size: usize,
) -> Option<CooperativeShape> {
    match dtype {
        DType::F16 | DType::BF16 => CooperativeShape::plan(
            properties,
            dtype_to_storage_type(dtype),
            head_dim,
            page_size,
        ),
        _ => None,
    }
}

/// Writes the attention of every query token to `output`; where [`supports`] says yes.
pub(super) fn launch(inputs: Inputs, output: CubeTensor) {
    let [_, _, page_size, head_dim] = inputs.keys.meta.shape().dims::<4>();
    let client = inputs.query.client.clone();
    let shape = plan(client.properties(), output.dtype, head_dim, page_size)
        .expect("the launch is for devices with the instructions")
        .packed(is_spirv(&output));
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
