//! Products by the matrix instructions of a plane, on tiles in shared memory: for NVIDIA's GPUs from Ampere on that do
//! not have the instructions of [`super::warpgroup`]. `docs/prefill.md` says more.

mod instructions;
mod kernel;
#[cfg(test)]
mod tests;
mod tiles;

pub(super) use self::tiles::{N_SIZES, name};

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{kernel::mma_matmul, tiles::Tiles};
use super::{
    super::{
        launch::{address_type, multiprocessors},
        matrix_instruction::{self, PLANE},
        ptx,
    },
    staged::{WIDTH, row_major},
};

/// What CubeCL says of the architecture of NVIDIA's GPUs, before its number.
const ARCHITECTURE: &str = "ptx_sm";
/// Ampere, the first with copies to shared memory and with the instructions for bf16.
const AMPERE: usize = 80;

/// Whether the kernel multiplies by weights of such a shape on a device.
pub(super) fn takes(
    properties: &DeviceProperties,
    dtype: DType,
    [d_output, d_input]: [usize; 2],
) -> bool {
    let architecture = properties.identity.fingerprint.strip_prefix(ARCHITECTURE);
    let architecture = architecture.and_then(|number| number.parse::<usize>().ok());
    ptx::is_compiled()
        && architecture.is_some_and(|architecture| architecture >= AMPERE)
        && matrix_instruction::is_there(properties, dtype, PLANE)
        && sizes(properties, dtype).next().is_some()
        && d_input > 0
        && d_input.is_multiple_of(WIDTH)
        && d_output.is_multiple_of(WIDTH)
}

/// The sizes of tiles that a device has room for, by their places among all; the largest first.
pub(super) fn sizes(properties: &DeviceProperties, dtype: DType) -> impl Iterator<Item = usize> {
    (0..N_SIZES).filter(move |&size| Tiles::of_size(size, &properties.hardware, dtype).is_some())
}

/// Writes the product of `rows [n, d_input]` with the transpose of `weight [d_output, d_input]`, by tiles of a size or
/// of that which shapes decide; where [`takes`] says yes, and the size is one of [`sizes`].
pub(super) fn launch(
    rows: CubeTensor,
    weight: CubeTensor,
    output: &CubeTensor,
    size: Option<usize>,
) {
    let [n, d_output] = output.meta.shape().dims::<2>();
    let hardware = &output.client.properties().hardware;
    let tiles = match size {
        Some(size) => Tiles::of_size(size, hardware, output.dtype),
        None => {
            let multiprocessors = multiprocessors(output);
            Tiles::of([n, d_output], multiprocessors, hardware, output.dtype)
        }
    };
    let tiles = tiles.expect("tiles that the device has room for");
    let (rows, weight) = (row_major(rows), row_major(weight));
    let client = output.client.clone();
    let address = address_type(&[&rows, &weight, output]);
    // SAFETY: rows past the end are others of the matrix, channels past the end zeros, and neither is
    // written; rows begin at multiples of 16 bytes.
    unsafe {
        mma_matmul::launch_unchecked(
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
