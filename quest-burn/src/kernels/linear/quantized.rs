use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::{address_type, empty, multiprocessors},
    Epilogue,
    finish::finish,
    shape::{GemvShape, vector_width},
};

/// Words of packed weights of one load.
const WORDS: usize = 4;
/// Bits of a word.
const WORD_BITS: usize = 32;
/// An integer below 2^23 in the lowest bits of this float is added to 2^23.
const MAGIC: i32 = 0x4B00_0000;
const MAGIC_VALUE: f32 = 8_388_608.0;

/// How weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
    /// Neighbouring weights of a row that share a scale.
    pub group: usize,
    /// Whether a group has a zero point of its own; otherwise it is the middle of the range.
    pub asymmetric: bool,
}

impl Packing {
    /// Weights of a word.
    pub fn per_word(&self) -> usize {
        WORD_BITS / self.bits
    }
}

/// One cube per `shape.cube_outputs()` output channels.
#[cube(launch_unchecked, address_type = "dynamic")]
fn quantized_gemv_kernel<F: Float, N: Size, W: Size>(
    rows: &Tensor<Vector<F, N>>,
    packed: &Tensor<Vector<i32, W>>,
    scales: &Tensor<F>,
    zeros: &Tensor<F>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] width: usize,
    #[comptime] packing: Packing,
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
    let Packing {
        bits,
        group,
        asymmetric,
    } = comptime!(packing);
    let weights = comptime!(shape.weights());
    let n_sums = comptime!(shape.sums());
    let per_word = comptime!(packing.per_word());
    let pieces = comptime!(per_word / width);
    let loads_per_group = comptime!(group / (per_word * WORDS));
    let columns = output.shape(1);
    let vectors = packed.shape(1) / comptime!(WORDS);
    let groups = scales.shape(1);
    let row_vectors = rows.shape(1) / width;
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
    let mut loaded = Array::<Vector<i32, W>>::new(comptime!(in_flight * weights));
    let mut scale = Array::<f32>::new(comptime!(in_flight * weights));
    let mut offset = Array::<f32>::new(comptime!(in_flight * weights));
    let mut weight_rows = Array::<usize>::new(weights);
    #[unroll]
    for w in 0..weights {
        // A channel past the end reads the last one's weights; its sum is not written.
        let channel = min(first_output + w % outputs, columns - 1);
        weight_rows[w] = w / outputs * columns + channel;
    }

    let stride = comptime!(plane * split);
    let mut first = part * plane + lane;
    while first < vectors {
        #[unroll]
        for i in 0..in_flight {
            let column = min(first + i * stride, vectors - 1);
            #[unroll]
            for w in 0..weights {
                let weight_row = weight_rows[w];
                loaded[i * weights + w] = packed[weight_row * vectors + column];
                let of_group = weight_row * groups + column / loads_per_group;
                scale[i * weights + w] = f32::cast_from(scales[of_group]);
                if comptime!(asymmetric) {
                    offset[i * weights + w] =
                        f32::cast_from(zeros[of_group]) + comptime!(MAGIC_VALUE);
                } else {
                    offset[i * weights + w] =
                        f32::new(comptime!(MAGIC_VALUE + (1 << (bits - 1)) as f32));
                }
            }
        }
        #[unroll]
        for i in 0..in_flight {
            let is_in = first + i * stride < vectors;
            let column = min(first + i * stride, vectors - 1);
            let mut chunk = Array::<f32>::new(n_sums);
            #[unroll]
            for s in 0..n_sums {
                chunk[s] = 0.0f32;
            }
            #[unroll]
            for word in 0..comptime!(WORDS) {
                #[unroll]
                for piece in 0..pieces {
                    let at = (column * comptime!(WORDS) + word) * pieces + piece;
                    #[unroll]
                    for w in 0..weights {
                        let word_bits = loaded[i * weights + w].extract(word);
                        let zero = offset[i * weights + w];
                        #[unroll]
                        for j in 0..width {
                            let shift = comptime!(((piece * width + j) * bits) as i32);
                            let mask = comptime!((1i32 << bits) - 1);
                            let value = ((word_bits >> shift) & mask) | comptime!(MAGIC);
                            let value = f32::reinterpret(value) - zero;
                            #[unroll]
                            for row in 0..m {
                                let x = f32::cast_from(rows[row * row_vectors + at].extract(j));
                                chunk[w * m + row] = fma(value, x, chunk[w * m + row]);
                            }
                        }
                    }
                }
            }
            #[unroll]
            for w in 0..weights {
                #[unroll]
                for row in 0..m {
                    let sum = chunk[w * m + row] * scale[i * weights + w];
                    sums[w * m + row] += select(is_in, sum, 0.0f32);
                }
            }
        }
        first += stride * in_flight;
    }
    finish::<F>(&mut sums, bias, residual, output, shape);
}

/// Products of a few rows with every packed weight row, and what follows.
#[allow(clippy::too_many_arguments)]
pub(crate) fn quantized_gemv(
    rows: CubeTensor,
    packed: CubeTensor,
    scales: CubeTensor,
    zeros: CubeTensor,
    bias: CubeTensor,
    residual: CubeTensor,
    packing: Packing,
    epilogue: Epilogue,
) -> CubeTensor {
    let rows = into_contiguous(rows);
    let packed = into_contiguous(packed);
    let (m, d_input) = (rows.meta.shape()[0], rows.meta.shape()[1]);
    let n = packed.meta.shape()[0];
    let columns = if epilogue.gated { n / 2 } else { n };
    let client = rows.client.clone();
    let hardware = &client.properties().hardware;
    let width = vector_width(d_input, rows.dtype, hardware).min(packing.per_word());
    let shape = GemvShape::new(
        hardware,
        multiprocessors(&rows),
        m,
        columns,
        d_input / packing.per_word() / WORDS,
        epilogue,
    );
    let output = empty(&rows, [m, columns], rows.dtype);
    let address = address_type(&[&packed, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    // SAFETY: columns of the input and output channels are masked by their numbers; the shapes were
    // checked before the operation was registered.
    unsafe {
        quantized_gemv_kernel::launch_unchecked(
            &client,
            CubeCount::Static(columns.div_ceil(shape.cube_outputs()) as u32, 1, 1),
            CubeDim::new_1d(shape.units as u32),
            address,
            width,
            WORDS,
            rows.into_tensor_arg(),
            packed.into_tensor_arg(),
            into_contiguous(scales).into_tensor_arg(),
            into_contiguous(zeros).into_tensor_arg(),
            into_contiguous(bias).into_tensor_arg(),
            into_contiguous(residual).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            width,
            packing,
            shape,
            dtype,
        );
    }
    output
}
