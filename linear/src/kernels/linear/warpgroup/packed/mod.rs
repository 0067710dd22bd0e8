//! Packed weights with the rows of a batch, by the matrix instructions of H100 and H200.
//!
//! Integers are copied to shared memory as they are, in stages as whole weights are. Each unit takes 16 bytes of
//! its two weight rows from there, makes numbers of the dtype of them in registers, and these are the left side
//! of the instruction. It sums up channels in any order: LHS rows are put into that in which a unit finds
//! weights in its words.

mod copies;
mod kernel;
mod rows;
mod shape;
#[cfg(test)]
mod tests;
mod words;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    kernel::packed_kernel,
    rows::launch_arrange,
    shape::{PackedShape, segmentation},
};
use super::{
    super::{
        super::{
            launch::address_type, matrix_instruction::PACKED, operands::Inputs, warpgroup::is_there,
        },
        Packing,
        args::BoundWeights,
        batched::{BatchKernel, Target, launch_batch},
        segments::Sizes,
    },
    shape::WIDTH,
};

/// Words of a copy.
const WORDS: usize = 4;

/// Whether the kernel takes rows of so many channels, with weights packed so, on a device.
pub(in super::super) fn takes(
    properties: &DeviceProperties,
    dtype: DType,
    d_input: usize,
    packing: Packing,
) -> bool {
    let block = shape::block(packing.bits);
    is_there(properties)
        // A byte is no number of bf16.
        && (dtype == DType::F16 || dtype == DType::BF16 && packing.bits == 4)
        && !packing.minima
        && packing.group.is_multiple_of(block)
        && d_input > 0
        && d_input.is_multiple_of(block)
}

/// Products of a batch's rows with every weight row, and what goes before and follows; where [`takes`]
/// says yes.
pub(in super::super) fn packed_gemv(
    inputs: Inputs<CubeBackend>,
    weights: BoundWeights,
    packing: Packing,
) -> CubeTensor {
    let n = weights.words.meta.shape()[0];
    let kernel = PackedWeights { weights, packing };
    launch_batch(inputs, n, &segmentation(packing.bits), kernel)
}

struct PackedWeights {
    weights: BoundWeights,
    packing: Packing,
}

impl BatchKernel for PackedWeights {
    fn launch<T: Target>(self, rows: CubeTensor, target: T, sizes: &Sizes) {
        let Self { weights, packing } = self;
        let shape = PackedShape::new(sizes, packing, rows.dtype);
        let cubes = shape.stages.cubes(sizes.outputs);
        let rows = launch_arrange(rows, packing.bits);
        let client = rows.client.clone();
        let address = address_type(&[&weights.words, &rows, target.written()]);
        let dtype = dtype_to_storage_type(rows.dtype);
        // SAFETY: weight rows and LHS rows past the end are not copied, scales clamped, outputs masked, and every
        // output of a segment is written; the shapes were checked before the operation was registered.
        unsafe {
            packed_kernel::launch_unchecked::<T::Sink>(
                &client,
                CubeCount::Static(cubes as u32, sizes.segments as u32, 1),
                CubeDim::new_1d(shape.units() as u32),
                address,
                WIDTH,
                WORDS,
                PACKED,
                1,
                rows.into_tensor_arg(),
                weights.into_arg(),
                target.into_arg::<packed_kernel::F>(),
                shape,
                dtype,
            );
        }
    }
}
