use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::assert_in_place;

/// Units of a cube.
const UNITS: usize = 32;

#[cube(launch_unchecked)]
fn advance_kernel(counts: &mut Tensor<i32>) {
    let sequence = CUBE_POS_X as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if sequence < counts.shape(0) {
        counts[sequence] += 1i32;
    }
}

/// Adds 1 to every count, in place.
pub(crate) fn launch_advance(counts: CubeTensor) -> CubeTensor {
    assert_in_place("advance", "token counts", &counts);
    let n = counts.meta.shape()[0];
    let client = counts.client.clone();
    // SAFETY: the index is masked by the number of counts.
    unsafe {
        advance_kernel::launch_unchecked(
            &client,
            CubeCount::Static(n.div_ceil(UNITS) as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            counts.clone().into_tensor_arg(),
        );
    }
    counts
}
