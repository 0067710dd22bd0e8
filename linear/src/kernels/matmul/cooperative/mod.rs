//! Products by cooperative matrices, the matrix instructions that Vulkan has on every vendor's GPUs.
//! `docs/prefill.md` has times.

mod kernel;
mod outputs;
mod tiles;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use self::{kernel::cooperative_matmul, tiles::Tiles};
use super::super::{
    cooperative_matrix::{WIDTH, is_spirv, word},
    launch::address_type,
};

/// Writes the product of `rows [n, d_input]` with the transpose of `weight [d_output, d_input]`, where the
/// device has the instructions and the kernel takes the shapes; elsewhere says so.
pub(super) fn launch(rows: &CubeTensor, weight: &CubeTensor, output: &CubeTensor) -> bool {
    let Some(tiles) = tiles(rows, output) else {
        return false;
    };
    let rows = into_contiguous(rows.clone());
    let weight = into_contiguous(weight.clone());
    let client = output.client.clone();
    let address = address_type(&[&rows, &weight, output]);
    let shape = output.meta.shape().dims::<2>();
    let element = dtype_to_storage_type(output.dtype);
    // SAFETY: rows past the end are others of the matrix, channels past the end zeros, and neither is
    // written; both sides are contiguous, and their rows whole vectors of words.
    unsafe {
        cooperative_matmul::launch_unchecked(
            &client,
            CubeCount::Static(tiles.cubes(shape) as u32, 1, 1),
            CubeDim::new_1d(tiles.units() as u32),
            address,
            WIDTH,
            rows.into_tensor_arg(),
            weight.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            tiles,
            element,
            word(element, tiles.packed),
        );
    }
    true
}

fn tiles(rows: &CubeTensor, output: &CubeTensor) -> Option<Tiles> {
    let [_, d_input] = rows.meta.shape().dims::<2>();
    let [n, d_output] = output.meta.shape().dims::<2>();
    let half = matches!(output.dtype, DType::F16 | DType::BF16);
    if !is_spirv(output) || !half || !output.is_contiguous() {
        return None;
    }
    Tiles::of(
        output.client.properties(),
        dtype_to_storage_type(output.dtype),
        [n, d_output, d_input],
    )
}
