use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::super::launch::assert_in_place;

#[cube(launch_unchecked)]
fn assign_kernel(target: &mut Tensor<i32>, values: &Tensor<i32>) {
    let i = CUBE_POS_X as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if i < target.shape(0) {
        target[i] = values[i];
    }
}

/// Writes values over a target, in place.
pub(crate) fn launch_assign(target: CubeTensor, values: CubeTensor) -> CubeTensor {
    const UNITS: usize = 32;
    assert_in_place("assign", "a target", &target);
    let values = into_contiguous(values);
    let n = target.meta.shape()[0];
    let client = target.client.clone();
    // SAFETY: the index is masked by the size of the target, which is that of the values.
    unsafe {
        assign_kernel::launch_unchecked(
            &client,
            CubeCount::Static(n.div_ceil(UNITS) as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            target.clone().into_tensor_arg(),
            values.into_tensor_arg(),
        );
    }
    target
}
