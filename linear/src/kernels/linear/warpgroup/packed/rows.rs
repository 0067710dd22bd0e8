//! LHS rows in the order in which units find weights in their words.

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{
    super::super::super::launch::{address_type, empty},
    shape::block,
};

/// Units of a cube.
const UNITS: usize = 256;

/// The channel of a block that is the `at`-th one of an instruction's.
///
/// Lane `t` of four has 16 bytes of a weight row, and of every 16 channels of an instruction two next to each
/// other and the two 8 channels on. What it takes together are fields of a word that are 16 bits apart.
#[cube]
fn channel(at: usize, #[comptime] bits: usize) -> usize {
    let step = at / 16;
    let half = at % 16 / 8;
    let lane = at % 8 / 2;
    let field = at % 2;
    if comptime!(bits == 4) {
        32 * lane + step / 2 * 8 + step % 2 * 2 + half + 4 * field
    } else {
        16 * lane + 4 * step + half + 2 * field
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn arrange_kernel<F: Float>(
    rows: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] bits: usize,
    #[define(F)] _dtype: ElemType,
) {
    let block = comptime!(block(bits));
    let at = ABSOLUTE_POS;
    if at < output.len() {
        output[at] = rows[at / block * block + channel(at % block, bits)];
    }
}

/// `rows [m, d_input]`, block by block in the order of weights of so many bits.
pub(super) fn launch_arrange(rows: CubeTensor, bits: usize) -> CubeTensor {
    let shape = rows.meta.shape().dims::<2>();
    let output = empty(&rows, shape, rows.dtype);
    let client = rows.client.clone();
    let address = address_type(&[&rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    let cubes = (shape[0] * shape[1]).div_ceil(UNITS);
    // SAFETY: units past the last channel are masked, and rows are whole blocks.
    unsafe {
        arrange_kernel::launch_unchecked(
            &client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            address,
            rows.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            bits,
            dtype,
        );
    }
    output
}
