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

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    kernel::warpgroup_gemv_kernel,
    shape::{StageShape, WIDTH, segments},
};
use super::{
    super::{
        launch::{address_type, empty, multiprocessors},
        operands::Inputs,
        rms_norm::launch_rms_norm,
        warpgroup::is_there,
    },
    Epilogue,
    args::output_arg,
    sink::{Segment, Whole, launch_merge},
};

pub(super) use self::shape::MAX_ROWS;

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
    let Inputs {
        rows,
        gamma,
        bias,
        residual,
        normed,
        epsilon,
        epilogue,
    } = inputs;
    // Read by every cube, LHS rows are normed once.
    let rows = match normed {
        true => launch_rms_norm(rows, gamma, epsilon),
        false => into_contiguous(rows),
    };
    let weight = into_contiguous(weight);
    let [m, d_input] = rows.meta.shape().dims::<2>();
    let n = weight.meta.shape()[0];
    let columns = n / epilogue.per_output();
    let n_segments = segments(multiprocessors(&rows), m, n, d_input);
    let output = empty(&rows, [m, columns], rows.dtype);
    let client = rows.client.clone();
    let shared_bytes = client.properties().hardware.max_shared_memory_size;
    let cubes = multiprocessors(&rows) / n_segments;
    let channels = d_input / n_segments;
    let dtype = dtype_to_storage_type(rows.dtype);
    if n_segments == 1 {
        let shape = StageShape::new(
            shared_bytes,
            cubes,
            [m, columns, channels],
            epilogue,
            rows.dtype,
        );
        let address = address_type(&[&weight, &rows, &output]);
        // SAFETY: weight rows and LHS rows past the end are not copied, and outputs masked; the shapes were
        // checked before the operation was registered.
        unsafe {
            warpgroup_gemv_kernel::launch_unchecked::<Whole>(
                &client,
                CubeCount::Static(shape.cubes(columns) as u32, 1, 1),
                CubeDim::new_1d(shape.units() as u32),
                address,
                WIDTH,
                rows.into_tensor_arg(),
                weight.into_tensor_arg(),
                output_arg(bias, residual, &output),
                shape,
                dtype,
            );
        }
        return output;
    }
    let shape = StageShape::new(
        shared_bytes,
        cubes,
        [m, n, channels],
        Epilogue::default(),
        rows.dtype,
    );
    let segments = empty(&rows, [n_segments, m, n], DType::F32);
    let address = address_type(&[&weight, &rows, &segments]);
    // SAFETY: as above; every output of a segment is written.
    unsafe {
        warpgroup_gemv_kernel::launch_unchecked::<Segment>(
            &client,
            CubeCount::Static(shape.cubes(n) as u32, n_segments as u32, 1),
            CubeDim::new_1d(shape.units() as u32),
            address,
            WIDTH,
            rows.into_tensor_arg(),
            weight.into_tensor_arg(),
            segments.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    }
    launch_merge(segments, bias, residual, &output, epilogue);
    output
}
