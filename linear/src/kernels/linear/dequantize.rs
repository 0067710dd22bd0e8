use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::{address_type, empty},
    Packing,
    quantized::unpack,
    shape::vector_width,
};

/// Units of a cube.
const UNITS: usize = 256;
/// Most cubes; they take turns.
const CUBES: usize = 1 << 14;

/// A unit per load of words.
#[cube(launch_unchecked, address_type = "dynamic")]
fn dequantize_kernel<F: Float, N: Size, W: Size>(
    words: &Tensor<Vector<i32, W>>,
    scales: &Tensor<F>,
    zeros: &Tensor<F>,
    output: &mut Tensor<Vector<F, N>>,
    loads: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[comptime] packing: Packing,
    #[define(F)] _dtype: ElemType,
) {
    let per_word = comptime!(packing.per_word());
    let pieces = comptime!(packing.per_load() / width);
    let mut at = CUBE_POS_X as usize * units + UNIT_POS as usize;
    while at < loads {
        let group = at / comptime!(packing.loads_per_group());
        let loaded = words[at];
        let scale = f32::cast_from(scales[group]);
        let zero = if comptime!(packing.asymmetric) {
            f32::cast_from(zeros[group])
        } else {
            f32::new(0.0)
        };
        #[unroll]
        for piece in 0..pieces {
            let mut values = Vector::<f32, N>::new(0.0f32);
            #[unroll]
            for j in 0..width {
                let index = comptime!(piece * width + j);
                let word = loaded.extract(comptime!(index / per_word));
                let index = comptime!(index % per_word);
                let value = unpack(word, zero, index, packing);
                let inverse = comptime!(1.0 / packing.place(index).factor);
                values.insert(j, value * inverse * scale);
            }
            output[at * pieces + piece] = Vector::cast_from(values);
        }
        at += CUBE_COUNT_X as usize * units;
    }
}

/// The weights, `[d_output, d_input]`, in the dtype of their scales.
pub(crate) fn dequantize(
    words: CubeTensor,
    scales: CubeTensor,
    zeros: CubeTensor,
    packing: Packing,
) -> CubeTensor {
    let words = into_contiguous(words);
    let n = words.meta.shape()[0];
    let d_input = words.meta.shape()[1] * packing.per_word();
    let client = words.client.clone();
    let hardware = &client.properties().hardware;
    let width = vector_width(d_input, scales.dtype, hardware);
    let units = UNITS.min(hardware.max_units_per_cube as usize);
    let loads = n * d_input / packing.per_load();
    let output = empty(&words, [n, d_input], scales.dtype);
    let address = address_type(&[&words, &output]);
    let dtype = dtype_to_storage_type(scales.dtype);
    // SAFETY: loads are masked by their number; the shapes were checked before the operation was
    // registered.
    unsafe {
        dequantize_kernel::launch_unchecked(
            &client,
            CubeCount::Static(loads.div_ceil(units).min(CUBES) as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            address,
            width,
            packing.words(),
            words.into_tensor_arg(),
            into_contiguous(scales).into_tensor_arg(),
            into_contiguous(zeros).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            loads,
            width,
            units,
            packing,
            dtype,
        );
    }
    output
}
