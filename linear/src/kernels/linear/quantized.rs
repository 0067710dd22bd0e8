use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::address_type,
    Epilogue, Packing,
    finish::finish,
    gemv::weight_rows,
    left::{LeftSide, left_side, place},
    matrix::{MatrixShape, matrix_gemv},
    packing::Place,
    plan::Plan,
    shape::GemvShape,
};

/// The bits of 2^23.
const EXPONENT: i32 = 0x4B00_0000;
const EXPONENT_VALUE: f32 = 8_388_608.0;

/// What a unit has in flight of its weight rows: loads of words, and the scale and zero point of each.
#[derive(CubeType)]
struct Loaded<F: Float, W: Size> {
    words: Array<Vector<i32, W>>,
    scales: Array<F>,
    zeros: Array<F>,
}

/// A weight of a word less its zero point, times its place's factor.
#[cube]
pub(super) fn unpack(
    word: i32,
    zero: f32,
    #[comptime] index: usize,
    #[comptime] packing: Packing,
) -> f32 {
    let Place { down, mask, factor } = comptime!(packing.place(index));
    let shifted = if comptime!(down == 0) {
        word
    } else {
        word >> down
    };
    let value = f32::reinterpret((shifted & mask) | comptime!(EXPONENT));
    // Exact: integers below 2^24.
    if comptime!(packing.asymmetric) {
        value - fma(zero, f32::new(factor), f32::new(EXPONENT_VALUE))
    } else {
        value - comptime!(EXPONENT_VALUE + packing.middle() * factor)
    }
}

/// Loads what a unit has in flight of its weight rows.
#[cube]
fn load<F: Float, W: Size>(
    loaded: &mut Loaded<F, W>,
    words: &Tensor<Vector<i32, W>>,
    scales: &Tensor<F>,
    zeros: &Tensor<F>,
    rows: &Array<usize>,
    first: usize,
    #[comptime] packing: Packing,
    #[comptime] shape: GemvShape,
) {
    let weights = comptime!(shape.weights());
    let stride = comptime!(shape.plane * shape.split);
    let loads_per_group = comptime!(packing.loads_per_group());
    #[unroll]
    for i in 0..shape.in_flight {
        let column = min(first + i * stride, comptime!(shape.vectors - 1));
        #[unroll]
        for w in 0..weights {
            let at = rows[w] + column;
            let index = comptime!(i * weights + w);
            loaded.words[index] = words[at];
            // Rows are whole groups, so that loads of all rows are counted through.
            loaded.scales[index] = scales[at / loads_per_group];
            if comptime!(packing.asymmetric) {
                loaded.zeros[index] = zeros[at / loads_per_group];
            }
        }
    }
}

/// Adds the products of what is loaded with every left side.
///
/// A load's products with integers are summed first, and the sum is multiplied by their scale.
#[cube]
fn add_products<F: Float, N: Size, W: Size>(
    sums: &mut Array<f32>,
    loaded: &Loaded<F, W>,
    left: &LeftSide<F, N>,
    rows: &Tensor<Vector<F, N>>,
    first: usize,
    #[comptime] width: usize,
    #[comptime] packing: Packing,
    #[comptime] shape: GemvShape,
) {
    let GemvShape {
        rows: m,
        vectors,
        pieces,
        ..
    } = comptime!(shape);
    let weights = comptime!(shape.weights());
    let stride = comptime!(shape.plane * shape.split);
    let per_word = comptime!(packing.per_word());
    let left_vectors = comptime!(shape.left_vectors());
    let mut parts = Array::<f32>::new(comptime!(m * weights));
    let mut x = Array::<f32>::new(comptime!(m * width));
    #[unroll]
    for i in 0..shape.in_flight {
        let column = first + i * stride;
        let is_in = column < vectors;
        let column = min(column, vectors - 1);
        #[unroll]
        for part in 0..comptime!(m * weights) {
            parts[part] = f32::new(0.0);
        }
        #[unroll]
        for piece in 0..pieces {
            #[unroll]
            for row in 0..m {
                let at = column * pieces + piece;
                let values = if comptime!(shape.normed) {
                    Vector::<f32, N>::cast_from(left.normed[row * left_vectors + place(at, shape)])
                } else {
                    Vector::<f32, N>::cast_from(rows[row * left_vectors + at])
                };
                #[unroll]
                for j in 0..width {
                    let index = comptime!((piece * width + j) % per_word);
                    let inverse = comptime!(1.0 / packing.place(index).factor);
                    x[row * width + j] = values.extract(j) * inverse;
                }
            }
            #[unroll]
            for w in 0..weights {
                let words = loaded.words[i * weights + w];
                let zero = if comptime!(packing.asymmetric) {
                    f32::cast_from(loaded.zeros[i * weights + w])
                } else {
                    f32::new(0.0)
                };
                #[unroll]
                for j in 0..width {
                    let index = comptime!(piece * width + j);
                    let word = words.extract(comptime!(index / per_word));
                    let value = unpack(word, zero, comptime!(index % per_word), packing);
                    #[unroll]
                    for row in 0..m {
                        let sum = parts[w * m + row];
                        parts[w * m + row] = fma(value, x[row * width + j], sum);
                    }
                }
            }
        }
        #[unroll]
        for w in 0..weights {
            let scale = f32::cast_from(loaded.scales[i * weights + w]);
            let scale = select(is_in, scale, 0.0f32);
            #[unroll]
            for row in 0..m {
                let sum = sums[w * m + row];
                sums[w * m + row] = fma(parts[w * m + row], scale, sum);
            }
        }
    }
}

/// The dense kernel's way through the weights; see [`GemvShape`].
#[cube(launch_unchecked, address_type = "dynamic")]
fn quantized_gemv_kernel<F: Float, N: Size, W: Size>(
    rows: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    words: &Tensor<Vector<i32, W>>,
    scales: &Tensor<F>,
    zeros: &Tensor<F>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] packing: Packing,
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
    let n_loaded = comptime!(in_flight * shape.weights());
    let cube_outputs = comptime!(shape.cube_outputs());
    let columns = output.shape(1);
    let own_plane = UNIT_POS as usize / plane;
    let start = own_plane % split * plane + UNIT_POS as usize % plane;
    let step = comptime!(plane * split * in_flight);
    let own_output = own_plane / split * outputs;
    let at_once = CUBE_COUNT_X as usize * cube_outputs;
    let mut cube_output = CUBE_POS_X as usize * cube_outputs;

    let mut shared = Shared::<[f32]>::new_slice(comptime!(2 * (units / plane) * n_sums));
    let mut loaded = Loaded::<F, W> {
        words: Array::new(n_loaded),
        scales: Array::new(n_loaded),
        zeros: Array::new(n_loaded),
    };
    let mut sums = Array::<f32>::new(n_sums);
    // The first weights are on their way while the left side is normed.
    let mut weights = weight_rows(cube_output + own_output, columns, shape);
    load::<F, W>(
        &mut loaded,
        words,
        scales,
        zeros,
        &weights,
        start,
        packing,
        shape,
    );
    let left = left_side::<F, N>(rows, gamma, epsilon, width, shape);
    let mut turn = 0usize;
    while cube_output < columns {
        #[unroll]
        for i in 0..n_sums {
            sums[i] = 0.0f32;
        }
        let mut first = start;
        while first < vectors {
            add_products::<F, N, W>(
                &mut sums, &loaded, &left, rows, first, width, packing, shape,
            );
            first += step;
            if first < vectors {
                load::<F, W>(
                    &mut loaded,
                    words,
                    scales,
                    zeros,
                    &weights,
                    first,
                    packing,
                    shape,
                );
            }
        }
        // The next turn's first weights are on their way while this one's sums are added up.
        let next = cube_output + at_once;
        if next < columns {
            weights = weight_rows(next + own_output, columns, shape);
            load::<F, W>(
                &mut loaded,
                words,
                scales,
                zeros,
                &weights,
                start,
                packing,
                shape,
            );
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

/// Products of a few rows with every packed weight row, and what goes before and follows.
pub(crate) fn quantized_gemv(
    rows: CubeTensor,
    gamma: CubeTensor,
    words: CubeTensor,
    scales: CubeTensor,
    zeros: CubeTensor,
    bias: CubeTensor,
    residual: CubeTensor,
    normed: bool,
    epsilon: f32,
    packing: Packing,
    epilogue: Epilogue,
) -> CubeTensor {
    let shape = MatrixShape::of(
        rows.client.properties(),
        rows.dtype,
        rows.meta.shape().dims(),
        normed,
        packing,
        epilogue,
    );
    if let Some(shape) = shape {
        return matrix_gemv(
            rows, gamma, words, scales, zeros, bias, residual, epsilon, shape,
        );
    }
    let words = into_contiguous(words);
    let n = words.meta.shape()[0];
    let Plan {
        rows,
        gamma,
        output,
        width,
        shape,
        cubes,
        dim,
    } = Plan::new(
        rows,
        gamma,
        n,
        Some(packing.per_load()),
        normed,
        epsilon,
        epilogue,
    );
    let client = rows.client.clone();
    let address = address_type(&[&words, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    // SAFETY: columns of the input and output channels are masked by their numbers; the shapes were
    // checked before the operation was registered.
    unsafe {
        quantized_gemv_kernel::launch_unchecked(
            &client,
            cubes,
            dim,
            address,
            width,
            packing.words(),
            rows.into_tensor_arg(),
            gamma.into_tensor_arg(),
            words.into_tensor_arg(),
            into_contiguous(scales).into_tensor_arg(),
            into_contiguous(zeros).into_tensor_arg(),
            into_contiguous(bias).into_tensor_arg(),
            into_contiguous(residual).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            epsilon,
            width,
            packing,
            shape,
            dtype,
        );
    }
    output
}
