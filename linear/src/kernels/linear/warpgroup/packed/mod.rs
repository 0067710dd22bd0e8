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
mod words;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous};
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    kernel::packed_kernel,
    rows::launch_arrange,
    shape::{PackedShape, segments},
};
use super::{
    super::{
        super::{
            launch::{address_type, empty, multiprocessors},
            matrix_instruction::PACKED,
            operands::Inputs,
            rms_norm::launch_rms_norm,
            warpgroup::is_there,
        },
        Epilogue, Packing,
        args::{BoundWeights, output_arg},
        sink::{Segment, Whole, launch_merge},
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
) -> burn_cubecl::tensor::CubeTensor {
    let Inputs {
        rows,
        gamma,
        bias,
        residual,
        normed,
        epsilon,
        epilogue,
    } = inputs;
    let rows = match normed {
        true => launch_rms_norm(rows, gamma, epsilon),
        false => into_contiguous(rows),
    };
    let [m, d_input] = rows.meta.shape().dims::<2>();
    let n = weights.words.meta.shape()[0];
    let columns = n / epilogue.per_output();
    let n_segments = segments(multiprocessors(&rows), m, n, d_input, packing.bits);
    let output = empty(&rows, [m, columns], rows.dtype);
    let client = rows.client.clone();
    let shared_bytes = client.properties().hardware.max_shared_memory_size;
    let cubes = multiprocessors(&rows) / n_segments;
    let dtype = dtype_to_storage_type(rows.dtype);
    let of_segment = if n_segments == 1 {
        epilogue
    } else {
        Epilogue::default()
    };
    let outputs = n / of_segment.per_output();
    let shape = PackedShape::new(
        shared_bytes,
        cubes,
        [m, outputs, d_input / n_segments],
        packing,
        of_segment,
        rows.dtype,
    );
    let rows = launch_arrange(rows, packing.bits);
    let count =
        |segments: usize| CubeCount::Static(shape.stages.cubes(outputs) as u32, segments as u32, 1);
    let dim = CubeDim::new_1d(shape.units() as u32);
    if n_segments == 1 {
        let address = address_type(&[&weights.words, &rows, &output]);
        // SAFETY: weight rows and LHS rows past the end are not copied, scales clamped, and outputs masked; the
        // shapes were checked before the operation was registered.
        unsafe {
            packed_kernel::launch_unchecked::<Whole>(
                &client,
                count(1),
                dim,
                address,
                WIDTH,
                WORDS,
                PACKED,
                1,
                rows.into_tensor_arg(),
                weights.into_arg(),
                output_arg(bias, residual, &output),
                shape,
                dtype,
            );
        }
        return output;
    }
    let segments = empty(&rows, [n_segments, m, n], DType::F32);
    let address = address_type(&[&weights.words, &rows, &segments]);
    // SAFETY: as above; every output of a segment is written.
    unsafe {
        packed_kernel::launch_unchecked::<Segment>(
            &client,
            count(n_segments),
            dim,
            address,
            WIDTH,
            WORDS,
            PACKED,
            1,
            rows.into_tensor_arg(),
            weights.into_arg(),
            segments.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    }
    launch_merge(segments, bias, residual, &output, epilogue);
    output
}
