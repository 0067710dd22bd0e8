//! Whole weights with the rows of a batch, by matrix instructions: with more than a few rows the units'
//! own multiplications would take longer than the weights.
//!
//! Weights go from memory into the registers of the plane that multiplies them, once. The batch's rows
//! are staged in shared memory, a block of channels at a time, for all weight rows of a cube; every cube
//! reads them from the cache of the device. So that many rows do not take longer than the weights, cubes
//! take more weight rows then and only a part of the channels each, and a launch of its own adds up the
//! parts.

mod left;
mod products;
mod shape;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    products::{add_products, total},
    shape::{BatchShape, PLANES, STEP, WIDTH},
};
use super::{
    super::{
        launch::{address_type, empty, multiprocessors},
        matrix_instruction::{PACKED, PLANE, ROWS, is_there},
        operands::Inputs,
        rms_norm::launch_rms_norm,
    },
    Epilogue,
    finish::{addend, write},
};

/// Most left sides, whose sums fit into the registers of a plane.
pub(super) const MAX_ROWS: usize = 64;
/// Words of a vector.
const WORDS: usize = 4;
/// Units of a cube that adds up parts.
const PART_UNITS: usize = 256;

/// Whether the kernel takes rows of so many channels on a device.
pub(super) fn takes(properties: &DeviceProperties, dtype: DType, d_input: usize) -> bool {
    is_there(properties, dtype, PLANES * PLANE) && d_input.is_multiple_of(STEP * WIDTH)
}

/// Cubes take runs of output channels in turns.
#[cube(launch_unchecked, address_type = "dynamic")]
fn batch_kernel<F: Float, N: Size, W: Size, P: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] shape: BatchShape,
    #[define(F)] _dtype: ElemType,
) {
    let outputs = comptime!(shape.outputs());
    let output_tiles = comptime!(shape.output_tiles());
    let gate_to_up = comptime!(shape.tiles - output_tiles);
    let m = output.shape(0);
    let columns = output.shape(1);
    let end = rows.shape(1) / WIDTH;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.sums()));
    let mut first_output = CUBE_POS_X as usize * outputs;
    while first_output < columns {
        add_products::<F, N, W, P>(
            &mut sums,
            rows,
            weight,
            first_output,
            columns,
            0usize,
            end,
            shape,
        );
        sync_cube();
        let mut i = UNIT_POS as usize;
        while i < outputs * m {
            let (left_side, channel) = (i / outputs, i % outputs);
            let (tile, row) = (channel / ROWS, channel % ROWS);
            let sum = total(&mut sums, tile, left_side, row, shape);
            let up = total(&mut sums, tile + gate_to_up, left_side, row, shape);
            let channel = first_output + channel;
            let added = addend::<F>(residual, left_side, channel, columns, shape.epilogue);
            write::<F>(
                sum,
                up,
                added,
                left_side,
                channel,
                bias,
                output,
                shape.epilogue,
            );
            i += comptime!(shape.units());
        }
        first_output += CUBE_COUNT_X as usize * outputs;
    }
}

/// Cubes: runs of weight rows, in turns, and parts of the channels.
#[cube(launch_unchecked, address_type = "dynamic")]
fn batch_part_kernel<F: Float, N: Size, W: Size, P: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    parts: &mut Tensor<f32>,
    #[comptime] shape: BatchShape,
    #[define(F)] _dtype: ElemType,
) {
    let outputs = comptime!(shape.outputs());
    let m = rows.shape(0);
    let n = weight.shape(0);
    let vectors = rows.shape(1) / WIDTH;
    let part = CUBE_POS_Y as usize;
    let n_parts = CUBE_COUNT_Y as usize;
    let steps = vectors / STEP;
    let first = part * steps / n_parts * STEP;
    let end = (part + 1) * steps / n_parts * STEP;
    let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.sums()));
    let mut first_output = CUBE_POS_X as usize * outputs;
    while first_output < n {
        add_products::<F, N, W, P>(&mut sums, rows, weight, first_output, n, first, end, shape);
        sync_cube();
        let mut i = UNIT_POS as usize;
        while i < outputs * m {
            let (left_side, channel) = (i / outputs, i % outputs);
            let (tile, row) = (channel / ROWS, channel % ROWS);
            let channel = first_output + channel;
            if channel < n {
                let sum = total(&mut sums, tile, left_side, row, shape);
                parts[(part * m + left_side) * n + channel] = sum;
            }
            i += comptime!(shape.units());
        }
        first_output += CUBE_COUNT_X as usize * outputs;
    }
}

/// Adds up the parts of every output.
#[cube(launch_unchecked, address_type = "dynamic")]
fn finish_parts_kernel<F: Float>(
    parts: &Tensor<f32>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] n_parts: usize,
    #[comptime] epilogue: Epilogue,
    #[define(F)] _dtype: ElemType,
) {
    let m = output.shape(0);
    let columns = output.shape(1);
    let i = ABSOLUTE_POS;
    if i < m * columns {
        let (row, channel) = (i / columns, i % columns);
        let n = parts.shape(2);
        let mut sum = f32::new(0.0);
        let mut up = f32::new(0.0);
        #[unroll]
        for part in 0..n_parts {
            let at = (part * m + row) * n + channel;
            sum += parts[at];
            if comptime!(epilogue.gated) {
                up += parts[at + columns];
            }
        }
        let added = addend::<F>(residual, row, channel, columns, epilogue);
        write::<F>(sum, up, added, row, channel, bias, output, epilogue);
    }
}

/// Products of a batch's rows with every weight row, and what goes before and follows; where [`takes`]
/// says yes.
pub(super) fn batch_gemv(inputs: Inputs<CubeBackend>, weight: CubeTensor) -> CubeTensor {
    let Inputs {
        rows,
        gamma,
        bias,
        residual,
        normed,
        epsilon,
        epilogue,
    } = inputs;
    // Read by every cube, left sides are normed once.
    let rows = match normed {
        true => launch_rms_norm(rows, gamma, epsilon),
        false => into_contiguous(rows),
    };
    let weight = into_contiguous(weight);
    let [m, d_input] = rows.meta.shape().dims::<2>();
    let n = weight.meta.shape()[0];
    let columns = n / epilogue.per_output();
    let n_parts = shape::parts(multiprocessors(&rows), m, n, d_input);
    let output = empty(&rows, [m, columns], rows.dtype);
    let (bias, residual) = (into_contiguous(bias), into_contiguous(residual));
    let client = rows.client.clone();
    let shared_bytes = client.properties().hardware.max_shared_memory_size;
    let cubes = multiprocessors(&rows) / n_parts;
    let dtype = dtype_to_storage_type(rows.dtype);
    if n_parts == 1 {
        let shape = BatchShape::new(shared_bytes, cubes, m, columns, epilogue);
        let cubes = columns.div_ceil(shape.outputs()).min(cubes);
        let address = address_type(&[&weight, &rows, &output]);
        // SAFETY: channels are clamped to the ends of rows, rows to their numbers, outputs masked; the
        // shapes were checked before the operation was registered.
        unsafe {
            batch_kernel::launch_unchecked(
                &client,
                CubeCount::Static(cubes as u32, 1, 1),
                CubeDim::new_1d(shape.units() as u32),
                address,
                WIDTH,
                WORDS,
                PACKED,
                rows.into_tensor_arg(),
                weight.into_tensor_arg(),
                bias.into_tensor_arg(),
                residual.into_tensor_arg(),
                output.clone().into_tensor_arg(),
                shape,
                dtype,
            );
        }
        return output;
    }
    let shape = BatchShape::new(shared_bytes, cubes, m, n, Epilogue::default());
    let cubes = n.div_ceil(shape.outputs()).min(cubes);
    let parts = empty(&rows, [n_parts, m, n], DType::F32);
    let address = address_type(&[&weight, &rows, &parts]);
    // SAFETY: as above; every part has a step, and every output of a part is written.
    unsafe {
        batch_part_kernel::launch_unchecked(
            &client,
            CubeCount::Static(cubes as u32, n_parts as u32, 1),
            CubeDim::new_1d(shape.units() as u32),
            address,
            WIDTH,
            WORDS,
            PACKED,
            rows.into_tensor_arg(),
            weight.into_tensor_arg(),
            parts.clone().into_tensor_arg(),
            shape,
            dtype,
        );
        finish_parts_kernel::launch_unchecked(
            &client,
            CubeCount::Static((m * columns).div_ceil(PART_UNITS) as u32, 1, 1),
            CubeDim::new_1d(PART_UNITS as u32),
            address,
            parts.into_tensor_arg(),
            bias.into_tensor_arg(),
            residual.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            n_parts,
            epilogue,
            dtype,
        );
    }
    output
}
