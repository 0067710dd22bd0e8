use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

#[cfg(feature = "cuda")]
use super::warpgroup;
use super::{
    super::{
        launch::address_type,
        operands::{Inputs, Weights},
    },
    Packing,
    args::{ActivationsArg, ActivationsArgLaunch, BoundWeights, OutputArg, WeightsArg, output_arg},
    batch::batch_gemv,
    epilogue::reduce_and_write,
    load::{Full, Loaded, Packed, Scales, WeightLoad, nothing_loaded},
    matrix::{MatrixShape, matrix_gemv},
    normed::norm_rows,
    plan::Plan,
    shape::{GemvShape, MAX_ROWS},
};
use crate::blocks::with_kernel;

/// Where the weight rows of output channels from `first_output` on begin.
#[cube]
fn first_rows(first_output: usize, columns: usize, #[comptime] shape: GemvShape) -> Array<usize> {
    let GemvShape {
        vectors, outputs, ..
    } = comptime!(shape);
    let weights = comptime!(shape.weights());
    let mut rows = Array::<usize>::new(weights);
    #[unroll]
    for w in 0..weights {
        // A channel past the end reads the last one's weights; its sum is not written.
        let output_channel = min(first_output + comptime!(w % outputs), columns - 1);
        rows[w] = (comptime!(w / outputs) * columns + output_channel) * vectors;
    }
    rows
}

/// Loads what a unit has in flight of its weight rows.
#[cube]
fn load<L: WeightLoad, E: Numeric, W: Size, S: Numeric, H: Size>(
    loaded: &mut Loaded<E, W, S, H>,
    weights: &WeightsArg<E, W, S, H>,
    rows: &Array<usize>,
    first: usize,
    #[comptime] packing: Packing,
    #[comptime] shape: GemvShape,
) {
    let n_weights = comptime!(shape.weights());
    let stride = comptime!(shape.plane * shape.split);
    #[unroll]
    for i in 0..shape.in_flight {
        let column = min(first + i * stride, comptime!(shape.vectors - 1));
        #[unroll]
        for w in 0..n_weights {
            let slot = comptime!(i * n_weights + w);
            L::load::<E, W, S, H>(loaded, weights, rows[w] + column, slot, packing);
        }
    }
}

/// Weights of any form with a few LHS rows; see [`GemvShape`].
#[cube(launch_unchecked, address_type = "dynamic")]
fn gemv_kernel<L: WeightLoad, F: Float, N: Size, E: Numeric, W: Size, S: Numeric, H: Size>(
    activations: &ActivationsArg<F, N>,
    weights: &WeightsArg<E, W, S, H>,
    output: &mut OutputArg<F>,
    #[comptime] width: usize,
    #[comptime] packing: Packing,
    #[comptime] shape: GemvShape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _word_type: ElemType,
    #[define(S)] _head_type: ElemType,
) {
    let GemvShape {
        plane,
        units,
        split,
        vectors,
        outputs,
        in_flight,
        ..
    } = comptime!(shape);
    let n_sums = comptime!(shape.sums());
    let n_loaded = comptime!(in_flight * shape.weights());
    // Whole weights have no groups.
    let n_groups = comptime!(if packing.is_whole() { 1 } else { n_loaded });
    let cube_outputs = comptime!(shape.cube_outputs());
    let columns = output.output.shape(1);
    let own_plane = UNIT_POS as usize / plane;
    let start = own_plane % split * plane + UNIT_POS as usize % plane;
    let stride = comptime!(plane * split);
    let step = comptime!(plane * split * in_flight);
    let own_output = own_plane / split * outputs;
    let at_once = CUBE_COUNT_X as usize * cube_outputs;
    let mut cube_output = CUBE_POS_X as usize * cube_outputs;

    let mut shared = Shared::<[f32]>::new_slice(comptime!(2 * (units / plane) * n_sums));
    let mut loaded = nothing_loaded::<E, W, S, H>(n_loaded, n_groups);
    let mut sums = Array::<f32>::new(n_sums);
    // The first weights are on their way while the LHS row is normed.
    let mut weight_rows = first_rows(cube_output + own_output, columns, shape);
    load::<L, E, W, S, H>(&mut loaded, weights, &weight_rows, start, packing, shape);
    let normed = norm_rows::<F, N>(activations, width, shape);
    let mut turn = 0usize;
    while cube_output < columns {
        #[unroll]
        for i in 0..n_sums {
            sums[i] = 0.0f32;
        }
        let mut first = start;
        while first < vectors {
            #[unroll]
            for i in 0..in_flight {
                L::add_products::<F, N, E, W, S, H>(
                    &mut sums,
                    &loaded,
                    &normed,
                    &activations.rows,
                    first + i * stride,
                    comptime!(i * shape.weights()),
                    width,
                    packing,
                    shape,
                );
            }
            first += step;
            if first < vectors {
                load::<L, E, W, S, H>(&mut loaded, weights, &weight_rows, first, packing, shape);
            }
        }
        // The next turn's first weights are on their way while this one's sums are added up.
        let next = cube_output + at_once;
        if next < columns {
            weight_rows = first_rows(next + own_output, columns, shape);
            load::<L, E, W, S, H>(&mut loaded, weights, &weight_rows, start, packing, shape);
        }
        reduce_and_write::<F>(&mut sums, &mut shared, turn, cube_output, output, shape);
        cube_output = next;
        turn += 1;
    }
}

/// Products of a few rows with every weight row, and what goes before and follows.
pub(crate) fn gemv(inputs: Inputs<CubeBackend>, weights: Weights<CubeBackend>) -> CubeTensor {
    let properties = inputs.rows.client.properties();
    let dtype = inputs.rows.dtype;
    let [m, d_input] = inputs.rows.meta.shape().dims::<2>();
    match weights {
        Weights::Full(weight) => {
            #[cfg(feature = "cuda")]
            if m >= warpgroup::MIN_ROWS && warpgroup::takes(properties, dtype, d_input) {
                return warpgroup::warpgroup_gemv(inputs, weight);
            }
            if m > MAX_ROWS {
                return batch_gemv(inputs, weight);
            }
            launch::<Full>(inputs, BoundWeights::whole(weight), Packing::WHOLE)
        }
        Weights::Groups {
            words,
            scales,
            zeros,
            packing,
        } => {
            // Matrix instructions take scales as they take rows.
            let is_same = scales.dtype == dtype;
            let weights = BoundWeights::packed(words, scales, zeros, 1);
            #[cfg(feature = "cuda")]
            if m > MAX_ROWS
                && is_same
                && warpgroup::packed::takes(properties, dtype, d_input, packing)
            {
                return warpgroup::packed::packed_gemv(inputs, weights, packing);
            }
            let shape = MatrixShape::of(
                properties,
                dtype,
                [m, d_input],
                inputs.normed,
                packing,
                inputs.epilogue,
            );
            if let Some(shape) = shape.filter(|_| is_same) {
                return matrix_gemv(inputs, weights, shape);
            }
            launch::<Packed<Scales>>(inputs, weights, packing)
        }
        Weights::Blocks {
            words,
            heads,
            packing,
            format,
        } => {
            let weights = BoundWeights::packed(words, heads.clone(), heads, packing.head_words);
            with_kernel!(format, G => launch::<Packed<G>>(inputs, weights, packing))
        }
    }
}

fn launch<L: WeightLoad>(
    inputs: Inputs<CubeBackend>,
    weights: BoundWeights,
    packing: Packing,
) -> CubeTensor {
    let n = weights.words.meta.shape()[0];
    let per_load = (!packing.is_whole()).then(|| packing.per_load());
    let Plan {
        rows,
        gamma,
        output,
        width,
        shape,
        cubes,
        dim,
    } = Plan::new(
        inputs.rows,
        inputs.gamma,
        n,
        per_load,
        inputs.normed,
        inputs.epsilon,
        inputs.epilogue,
    );
    let word_width = per_load.map_or(width, |_| packing.words());
    let client = rows.client.clone();
    let address = address_type(&[&weights.words, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    let word_type = dtype_to_storage_type(weights.words.dtype);
    let head_type = dtype_to_storage_type(weights.heads.dtype);
    debug_assert!(packing.is_whole() || weights.words.dtype == DType::I32);
    // SAFETY: columns of the input and output channels are masked by their numbers; the shapes were
    // checked before the operation was registered.
    unsafe {
        gemv_kernel::launch_unchecked::<L>(
            &client,
            cubes,
            dim,
            address,
            width,
            word_width,
            weights.head_width,
            ActivationsArgLaunch::new(
                rows.into_tensor_arg(),
                gamma.into_tensor_arg(),
                inputs.epsilon,
            ),
            weights.into_arg(),
            output_arg(inputs.bias, inputs.residual, &output),
            width,
            packing,
            shape,
            dtype,
            word_type,
            head_type,
        );
    }
    output
}
