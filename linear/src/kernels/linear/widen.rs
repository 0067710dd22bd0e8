use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::cast, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        launch::{address_type, empty},
        operands::Weights,
    },
    Packing,
    args::{BoundWeights, WeightsArg},
    load::{GroupLoad, Scales, unpack},
    shape::vector_width,
};
use crate::blocks::with_kernel;

/// Units of a cube.
const UNITS: usize = 256;
/// Most cubes; they take turns.
const CUBES: usize = 1 << 14;

/// A unit per load of words.
#[cube(launch_unchecked, address_type = "dynamic")]
fn widen_kernel<G: GroupLoad, F: Float, N: Size, W: Size, S: Numeric, H: Size>(
    weights: &WeightsArg<i32, W, S, H>,
    output: &mut Tensor<Vector<F, N>>,
    loads: usize,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[comptime] packing: Packing,
    #[define(F)] _dtype: ElemType,
    #[define(S)] _head_type: ElemType,
) {
    let per_word = comptime!(packing.per_word());
    let pieces = comptime!(packing.per_load() / width);
    let mut at = CUBE_POS_X as usize * units + UNIT_POS as usize;
    while at < loads {
        let head = at / comptime!(packing.loads_per_head());
        let group = at / comptime!(packing.loads_per_group());
        let loaded = weights.words[at];
        let (scale, minimum) = G::scale_and_minimum::<S, H>(weights.heads[head], group);
        let zero = if comptime!(packing.asymmetric) {
            f32::cast_from(weights.zeros[head].extract(0usize))
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
                let mut value = value * inverse * scale;
                if comptime!(packing.minima) {
                    value += minimum;
                }
                values.insert(j, value);
            }
            output[at * pieces + piece] = Vector::cast_from(values);
        }
        at += CUBE_COUNT_X as usize * units;
    }
}

/// The weights, `[d_output, d_input]`, in a dtype.
pub(crate) fn widen(weights: Weights<CubeBackend>, dtype: DType) -> CubeTensor {
    match weights {
        Weights::Full(weight) if weight.dtype == dtype => weight,
        Weights::Full(weight) => cast(weight, dtype),
        Weights::Groups {
            words,
            scales,
            zeros,
            packing,
        } => {
            let weights = BoundWeights::packed(words, scales, zeros, 1);
            launch::<Scales>(weights, packing, dtype)
        }
        Weights::Blocks {
            words,
            heads,
            packing,
            format,
        } => {
            let weights = BoundWeights::packed(words, heads.clone(), heads, packing.head_words);
            with_kernel!(format, G => launch::<G>(weights, packing, dtype))
        }
    }
}

fn launch<G: GroupLoad>(weights: BoundWeights, packing: Packing, dtype: DType) -> CubeTensor {
    let words = &weights.words;
    let n = words.meta.shape()[0];
    let d_input = words.meta.shape()[1] * packing.per_word();
    let client = words.client.clone();
    let hardware = &client.properties().hardware;
    let width = vector_width(d_input, dtype, hardware);
    let units = UNITS.min(hardware.max_units_per_cube as usize);
    let loads = n * d_input / packing.per_load();
    let output = empty(words, [n, d_input], dtype);
    let address = address_type(&[words, &output]);
    let head_type = dtype_to_storage_type(weights.heads.dtype);
    // SAFETY: loads are masked by their number; the shapes were checked before the operation was
    // registered.
    unsafe {
        widen_kernel::launch_unchecked::<G>(
            &client,
            CubeCount::Static(loads.div_ceil(units).min(CUBES) as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            address,
            width,
            packing.words(),
            weights.head_width,
            weights.into_arg(),
            output.clone().into_tensor_arg(),
            loads,
            width,
            units,
            packing,
            dtype_to_storage_type(dtype),
            head_type,
        );
    }
    output
}
