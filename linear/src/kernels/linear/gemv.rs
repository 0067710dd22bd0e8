use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::address_type,
    Epilogue,
    batch::batch_gemv,
    finish::finish,
    left::{LeftSide, left_side},
    plan::Plan,
    shape::{GemvShape, MAX_ROWS},
};

/// Where the weight rows of output channels from `first_output` on begin.
#[cube]
pub(super) fn weight_rows(
    first_output: usize,
    columns: usize,
    #[comptime] shape: GemvShape,
) -> Array<usize> {
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
fn load<F: Float, N: Size>(
    loaded: &mut Array<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    rows: &Array<usize>,
    first: usize,
    #[comptime] shape: GemvShape,
) {
    let weights = comptime!(shape.weights());
    let stride = comptime!(shape.plane * shape.split);
    #[unroll]
    for i in 0..shape.in_flight {
        let column = min(first + i * stride, comptime!(shape.vectors - 1));
        #[unroll]
        for w in 0..weights {
            loaded[i * weights + w] = weight[rows[w] + column];
        }
    }
}

/// Adds the products of what is loaded with every left side.
#[cube]
fn add_products<F: Float, N: Size>(
    sums: &mut Array<f32>,
    loaded: &Array<Vector<F, N>>,
    left: &LeftSide<F, N>,
    rows: &Tensor<Vector<F, N>>,
    first: usize,
    #[comptime] width: usize,
    #[comptime] shape: GemvShape,
) {
    let GemvShape {
        rows: m, vectors, ..
    } = comptime!(shape);
    let weights = comptime!(shape.weights());
    let stride = comptime!(shape.plane * shape.split);
    #[unroll]
    for i in 0..shape.in_flight {
        let column = first + i * stride;
        let is_in = column < vectors;
        let column = min(column, vectors - 1);
        #[unroll]
        for row in 0..m {
            let at = row * vectors + column;
            let x = if comptime!(shape.normed) {
                Vector::<f32, N>::cast_from(left.normed[at])
            } else {
                Vector::<f32, N>::cast_from(rows[at])
            };
            #[unroll]
            for w in 0..weights {
                let values = Vector::<f32, N>::cast_from(loaded[i * weights + w]);
                let mut sum = f32::new(0.0);
                #[unroll]
                for j in 0..width {
                    sum = fma(values.extract(j), x.extract(j), sum);
                }
                sums[w * m + row] += select(is_in, sum, 0.0f32);
            }
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gemv_kernel<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] shape: GemvShape,
    #[define(F)] _dtype: ElemType,
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
    let cube_outputs = comptime!(shape.cube_outputs());
    let columns = output.shape(1);
    let own_plane = UNIT_POS as usize / plane;
    let start = own_plane % split * plane + UNIT_POS as usize % plane;
    let step = comptime!(plane * split * in_flight);
    let own_output = own_plane / split * outputs;
    let at_once = CUBE_COUNT_X as usize * cube_outputs;
    let mut cube_output = CUBE_POS_X as usize * cube_outputs;

    let mut shared = Shared::<[f32]>::new_slice(comptime!(2 * (units / plane) * n_sums));
    let mut loaded = Array::<Vector<F, N>>::new(comptime!(in_flight * shape.weights()));
    let mut sums = Array::<f32>::new(n_sums);
    // The first weights are on their way while the left side is normed.
    let mut weights = weight_rows(cube_output + own_output, columns, shape);
    load::<F, N>(&mut loaded, weight, &weights, start, shape);
    let left = left_side::<F, N>(rows, gamma, epsilon, width, shape);
    let mut turn = 0usize;
    while cube_output < columns {
        #[unroll]
        for i in 0..n_sums {
            sums[i] = 0.0f32;
        }
        let mut first = start;
        while first < vectors {
            add_products::<F, N>(&mut sums, &loaded, &left, rows, first, width, shape);
            first += step;
            if first < vectors {
                load::<F, N>(&mut loaded, weight, &weights, first, shape);
            }
        }
        // The next turn's first weights are on their way while this one's sums are added up.
        let next = cube_output + at_once;
        if next < columns {
            weights = weight_rows(next + own_output, columns, shape);
            load::<F, N>(&mut loaded, weight, &weights, start, shape);
        }
        finish::<F>(
            &mut sums,
            &mut shared,
            turn,
            cube_output,
            bias,
            residual,
            output,
            shape,
        );
        cube_output = next;
        turn += 1;
    }
}

/// Products of a few rows with every weight row, and what goes before and follows.
pub(crate) fn gemv(
    rows: CubeTensor,
    gamma: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    residual: CubeTensor,
    normed: bool,
    epsilon: f32,
    epilogue: Epilogue,
) -> CubeTensor {
    if rows.meta.shape()[0] > MAX_ROWS {
        return batch_gemv(
            rows, gamma, weight, bias, residual, normed, epsilon, epilogue,
        );
    }
    let weight = into_contiguous(weight);
    let n = weight.meta.shape()[0];
    let Plan {
        rows,
        gamma,
        output,
        width,
        shape,
        cubes,
        dim,
    } = Plan::new(rows, gamma, n, None, normed, epsilon, epilogue);
    let client = rows.client.clone();
    let address = address_type(&[&weight, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    // SAFETY: columns of the input and output channels are masked by their numbers; the shapes were
    // checked before the operation was registered.
    unsafe {
        gemv_kernel::launch_unchecked(
            &client,
            cubes,
            dim,
            address,
            width,
            rows.into_tensor_arg(),
            gamma.into_tensor_arg(),
            weight.into_tensor_arg(),
            into_contiguous(bias).into_tensor_arg(),
            into_contiguous(residual).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            epsilon,
            width,
            shape,
            dtype,
        );
    }
    output
}
