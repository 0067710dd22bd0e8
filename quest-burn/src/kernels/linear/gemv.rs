use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::{address_type, empty, multiprocessors},
    Epilogue,
    finish::finish,
    shape::{GemvShape, vector_width},
};

/// One cube per `shape.cube_outputs()` output channels.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gemv_kernel<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] width: usize,
    #[comptime] shape: GemvShape,
    #[define(F)] _dtype: ElemType,
) {
    let GemvShape {
        plane,
        split,
        rows: m,
        outputs,
        in_flight,
        ..
    } = comptime!(shape);
    let weights = comptime!(shape.weights());
    let n_sums = comptime!(shape.sums());
    let columns = output.shape(1);
    let vectors = weight.shape(1) / width;
    let lane = UNIT_POS as usize % plane;
    let own_plane = UNIT_POS as usize / plane;
    let part = own_plane % split;
    let first_output =
        CUBE_POS_X as usize * comptime!(shape.cube_outputs()) + own_plane / split * outputs;

    let mut sums = Array::<f32>::new(n_sums);
    #[unroll]
    for i in 0..n_sums {
        sums[i] = 0.0f32;
    }
    let mut loaded = Array::<Vector<F, N>>::new(comptime!(in_flight * weights));
    let mut starts = Array::<usize>::new(weights);
    #[unroll]
    for w in 0..weights {
        // A channel past the end reads the last one's weights; its sum is not written.
        let output_channel = min(first_output + w % outputs, columns - 1);
        starts[w] = (w / outputs * columns + output_channel) * vectors;
    }

    let stride = comptime!(plane * split);
    let mut first = part * plane + lane;
    while first < vectors {
        #[unroll]
        for i in 0..in_flight {
            let column = min(first + i * stride, vectors - 1);
            #[unroll]
            for w in 0..weights {
                loaded[i * weights + w] = weight[starts[w] + column];
            }
        }
        #[unroll]
        for i in 0..in_flight {
            let column = first + i * stride;
            let is_in = column < vectors;
            let column = min(column, vectors - 1);
            #[unroll]
            for row in 0..m {
                let x = Vector::<f32, N>::cast_from(rows[row * vectors + column]);
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
        first += stride * in_flight;
    }

    finish::<F>(&mut sums, bias, residual, output, shape);
}

/// Products of a few rows with every weight row, and what follows.
pub(crate) fn gemv(
    rows: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    residual: CubeTensor,
    epilogue: Epilogue,
) -> CubeTensor {
    let rows = into_contiguous(rows);
    let weight = into_contiguous(weight);
    let (m, d_input) = (rows.meta.shape()[0], rows.meta.shape()[1]);
    let n = weight.meta.shape()[0];
    let columns = if epilogue.gated { n / 2 } else { n };
    let client = rows.client.clone();
    let hardware = &client.properties().hardware;
    let width = vector_width(d_input, rows.dtype, hardware);
    let shape = GemvShape::new(
        hardware,
        multiprocessors(&rows),
        m,
        columns,
        d_input / width,
        epilogue,
    );
    let output = empty(&rows, [m, columns], rows.dtype);
    let address = address_type(&[&weight, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    // SAFETY: columns of the input and output channels are masked by their numbers; the shapes were
    // checked before the operation was registered.
    unsafe {
        gemv_kernel::launch_unchecked(
            &client,
            CubeCount::Static(columns.div_ceil(shape.cube_outputs()) as u32, 1, 1),
            CubeDim::new_1d(shape.units as u32),
            address,
            width,
            rows.into_tensor_arg(),
            weight.into_tensor_arg(),
            into_contiguous(bias).into_tensor_arg(),
            into_contiguous(residual).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            width,
            shape,
            dtype,
        );
    }
    output
}
