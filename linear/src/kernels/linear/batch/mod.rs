//! Whole weights with the rows of a batch, by matrix instructions: with more than a few rows the units'
//! own multiplications would take longer than the weights.
//!
//! Weights go from memory into the registers of the plane that multiplies them, once. The batch's rows
//! are staged in shared memory, a block of channels at a time, for all weight rows of a cube; every cube
//! reads them from the cache of the device. So that many rows do not take longer than the weights, cubes
//! take more weight rows then and only a segment of the channels each, and a launch of its own adds up the
//! segments.

mod lhs;
mod products;
mod shape;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    products::{add_products, total},
    shape::{BatchShape, PLANES, SEGMENTATION, STEP, WIDTH},
};
use super::{
    super::{
        launch::address_type,
        matrix_instruction::{PACKED, PLANE, ROWS, is_there},
        operands::Inputs,
    },
    batched::{BatchKernel, Target, launch_batch},
    segments::Sizes,
    sink::{STEP as SEGMENT_STEP, Sink},
};

/// Most LHS rows, whose sums fit into the registers of a plane.
pub(super) const MAX_ROWS: usize = 64;
/// Words of a vector.
const WORDS: usize = 4;

const _: () = assert!(STEP == SEGMENT_STEP);

/// Whether the kernel takes rows of so many channels on a device.
pub(super) fn takes(properties: &DeviceProperties, dtype: DType, d_input: usize) -> bool {
    is_there(properties, dtype, PLANES * PLANE) && d_input.is_multiple_of(STEP * WIDTH)
}

/// Cubes: runs of weight rows, in turns, and segments of the channels.
#[cube(launch_unchecked, address_type = "dynamic")]
fn batch_kernel<O: Sink, F: Float, N: Size, W: Size, P: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    output: &mut O::Output<F>,
    #[comptime] shape: BatchShape,
    #[define(F)] _dtype: ElemType,
) {
    let outputs = comptime!(shape.outputs());
    let output_tiles = comptime!(shape.output_tiles());
    let m = rows.shape(0);
    let columns = weight.shape(0) / comptime!(shape.epilogue.per_output());
    let (first, end) = O::range(rows.shape(1) / WIDTH);
    let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.sums()));
    let mut first_output = CUBE_POS_X as usize * outputs;
    while first_output < columns {
        add_products::<F, N, W, P>(
            &mut sums,
            rows,
            weight,
            first_output,
            columns,
            first,
            end,
            shape,
        );
        sync_cube();
        let mut i = UNIT_POS as usize;
        while i < outputs * m {
            let (lhs_row, channel) = (i / outputs, i % outputs);
            let (tile, row) = (channel / ROWS, channel % ROWS);
            let sum = total(&mut sums, tile, lhs_row, row, shape);
            let mut up = f32::new(0.0);
            if comptime!(shape.epilogue.gated) {
                up = total(&mut sums, tile + output_tiles, lhs_row, row, shape);
            }
            let channel = first_output + channel;
            O::put::<F>(output, sum, up, lhs_row, channel, m, shape.epilogue);
            i += comptime!(shape.units());
        }
        first_output += CUBE_COUNT_X as usize * outputs;
    }
}

/// Products of a batch's rows with every weight row, and what goes before and follows; where [`takes`]
/// says yes.
pub(super) fn batch_gemv(inputs: Inputs<CubeBackend>, weight: CubeTensor) -> CubeTensor {
    let n = weight.meta.shape()[0];
    let kernel = WholeWeights(into_contiguous(weight));
    launch_batch(inputs, n, &SEGMENTATION, kernel)
}

/// `[d_output, d_input]`
struct WholeWeights(CubeTensor);

impl BatchKernel for WholeWeights {
    fn launch<T: Target>(self, rows: CubeTensor, target: T, sizes: &Sizes) {
        let Self(weight) = self;
        let shape = BatchShape::new(sizes);
        let cubes = sizes.outputs.div_ceil(shape.outputs()).min(sizes.cubes);
        let client = rows.client.clone();
        let address = address_type(&[&weight, &rows, target.written()]);
        let dtype = dtype_to_storage_type(rows.dtype);
        // SAFETY: channels are clamped to the ends of rows, rows to their numbers, outputs masked; every
        // segment has a step, and every output of a segment is written; the shapes were checked before the
        // operation was registered.
        unsafe {
            batch_kernel::launch_unchecked::<T::Sink>(
                &client,
                CubeCount::Static(cubes as u32, sizes.segments as u32, 1),
                CubeDim::new_1d(shape.units() as u32),
                address,
                WIDTH,
                WORDS,
                PACKED,
                rows.into_tensor_arg(),
                weight.into_tensor_arg(),
                target.into_arg::<batch_kernel::F>(),
                shape,
                dtype,
            );
        }
    }
}
