//! Products by the matrix instructions of H100 and H200, on tiles in shared memory. `docs/prefill.md` has
//! times.

mod kernel;
#[cfg(test)]
mod tests;
mod tiles;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{kernel::warpgroup_matmul, tiles::Tiles};
use super::{
    super::{
        launch::{address_type, multiprocessors},
        warpgroup::is_there,
    },
    staged::{WIDTH, row_major},
};

/// Whether the kernel multiplies by weights of such a shape on a device.
pub(super) fn takes(
    properties: &DeviceProperties,
    dtype: DType,
    [d_output, d_input]: [usize; 2],
) -> bool {
    is_there(properties)
        && matches!(dtype, DType::F16 | DType::BF16)
        && d_input > 0
        && d_input.is_multiple_of(WIDTH)
        && d_output.is_multiple_of(WIDTH)
}

/// Writes the product of `rows [n, d_input]` with the transpose of `weight [d_output, d_input]`; where
/// [`takes`] says yes.
pub(super) fn launch(rows: CubeTensor, weight: CubeTensor, output: &CubeTensor) {
    let [n, d_output] = output.meta.shape().dims::<2>();
    let tiles = Tiles::of([n, d_output], multiprocessors(output), output.dtype);
    let (rows, weight) = (row_major(rows), row_major(weight));
    let client = output.client.clone();
    let address = address_type(&[&rows, &weight, output]);
    // SAFETY: rows past the end are others of the matrix, channels past the end zeros, and neither is
    // written; rows begin at multiples of 16 bytes.
    unsafe {
        warpgroup_matmul::launch_unchecked(
            &client,
            CubeCount::Static(tiles.cubes([n, d_output]) as u32, 1, 1),
            CubeDim::new_1d(tiles.units() as u32),
            address,
            WIDTH,
            rows.into_tensor_arg(),
            weight.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            tiles,
            dtype_to_storage_type(output.dtype),
        );
    }
}
