//! Whole weights with the rows of a batch, by the matrix instructions of H100 and H200.
//!
//! Weights are the left side: a cube keeps a run of weight rows for itself and takes all of their channels,
//! in stages of shared memory that copies fill ahead of the products. So many bytes are on their way that a
//! barrier for each stage costs nothing, and no unit waits for what it loads. The batch's rows lie beside
//! the weights in every stage; each cube reads them from the cache of the device. Where they would be more
//! than the weights, cubes take more weight rows and a segment of the channels each.

mod copies;
mod kernel;
pub(super) mod packed;
mod shape;
#[cfg(test)]
mod tests;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    kernel::warpgroup_gemv_kernel,
    shape::{SEGMENTATION, StageShape, WIDTH},
};
use super::{
    super::{launch::address_type, operands::Inputs, warpgroup::is_there},
    batched::{BatchKernel, Target, launch_batch},
    segments::Sizes,
};

pub(super) use self::shape::MAX_ROWS;

/// Fewest rows with which it is faster than the kernel that keeps rows and sums in registers and norms rows
/// in its own launch.
pub(super) const MIN_ROWS: usize = 3;

/// Whether the kernel takes rows of so many channels on a device.
pub(super) fn takes(properties: &DeviceProperties, dtype: DType, d_input: usize) -> bool {
    is_there(properties)
        && matches!(dtype, DType::F16 | DType::BF16)
        && d_input > 0
        && d_input.is_multiple_of(shape::CHANNELS)
}

/// Products of a batch's rows with every weight row, and what goes before and follows; where [`takes`]
/// says yes.
pub(super) fn warpgroup_gemv(inputs: Inputs<CubeBackend>, weight: CubeTensor) -> CubeTensor {
    let n = weight.meta.shape()[0];
    let kernel = WholeWeights(into_contiguous(weight));
    launch_batch(inputs, n, &SEGMENTATION, kernel)
}

/// `[d_output, d_input]`
struct WholeWeights(CubeTensor);

impl BatchKernel for WholeWeights {
    fn launch<T: Target>(self, rows: CubeTensor, target: T, sizes: &Sizes) {
        let Self(weight) = self;
        let shape = StageShape::new(sizes, rows.dtype);
        let cubes = shape.cubes(sizes.outputs);
        let client = rows.client.clone();
        let address = address_type(&[&weight, &rows, target.written()]);
        let dtype = dtype_to_storage_type(rows.dtype);
        // SAFETY: weight rows and LHS rows past the end are not copied, outputs masked, and every output of a
        // segment is written; the shapes were checked before the operation was registered.
        unsafe {
            warpgroup_gemv_kernel::launch_unchecked::<T::Sink>(
                &client,
                CubeCount::Static(cubes as u32, sizes.segments as u32, 1),
                CubeDim::new_1d(shape.units() as u32),
                address,
                WIDTH,
                rows.into_tensor_arg(),
                weight.into_tensor_arg(),
                target.into_arg::<warpgroup_gemv_kernel::F>(),
                shape,
                dtype,
            );
        }
    }
}
