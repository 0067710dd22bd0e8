use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::super::{
    launch::{address_type, assert_in_place},
    operands::State,
    row::RowLayout,
};

/// Most units of a cube.
const UNITS: usize = 1024;
/// Vectors of logits that a unit has in flight.
const IN_FLIGHT: usize = 4;

/// One cube per sequence.
#[cube(launch_unchecked, address_type = "dynamic")]
fn next_tokens_kernel<F: Float, N: Size>(
    logits: &Tensor<Vector<F, N>>,
    active: &Tensor<i32>,
    tokens: &mut Tensor<i32>,
    starts: &mut Tensor<i32>,
    lengths: &mut Tensor<i32>,
    history: &mut Tensor<i32>,
    #[comptime] units: usize,
    #[comptime] width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let sequence = CUBE_POS_X as usize;
    let unit = UNIT_POS as usize;
    let n = logits.shape(1) / width;
    let row = sequence * n;

    // Bits of a float in the order of the integers; NaN and infinity have none and come first.
    let mut best = 0u32;
    let mut best_id = i32::new(-1);
    let mut broken = 0u32;
    let mut first = unit;
    while first < n {
        let mut loaded = Array::<Vector<F, N>>::new(comptime!(IN_FLIGHT));
        #[unroll]
        for i in 0..IN_FLIGHT {
            // A vector past the end reads the last one again, which changes nothing.
            loaded[i] = logits[row + min(first + i * units, n - 1)];
        }
        #[unroll]
        for i in 0..IN_FLIGHT {
            let column = min(first + i * units, n - 1) * width;
            #[unroll]
            for j in 0..width {
                let bits = u32::reinterpret(f32::cast_from(loaded[i].extract(j)));
                let magnitude = bits & 0x7FFF_FFFFu32;
                if magnitude > 0x7F80_0000u32 || bits == 0x7F80_0000u32 {
                    broken = 1u32;
                }
                // Zeros are equal whatever their sign.
                let negative = bits > 0x8000_0000u32;
                let key = select(negative, !bits, magnitude | 0x8000_0000u32);
                let finite = magnitude < 0x7F80_0000u32;
                if finite && key > best {
                    best = key;
                    best_id = (column + j) as i32;
                }
            }
        }
        first += comptime!(units * IN_FLIGHT);
    }

    let mut keys = Shared::<[u32]>::new_slice(units);
    let mut ids = Shared::<[i32]>::new_slice(units);
    let mut flags = Shared::<[u32]>::new_slice(units);
    keys[unit] = best;
    ids[unit] = best_id;
    flags[unit] = broken;
    let steps = comptime!(units.ilog2());
    #[unroll]
    for step in 0..steps {
        sync_cube();
        let half = comptime!(units >> (step + 1));
        if unit < half {
            let other = unit + half;
            let wins =
                keys[other] > keys[unit] || (keys[other] == keys[unit] && ids[other] < ids[unit]);
            if wins {
                keys[unit] = keys[other];
                ids[unit] = ids[other];
            }
            flags[unit] = flags[unit] | flags[other];
        }
    }

    if unit == 0 && active[sequence] != 0i32 {
        let mut chosen = ids[0];
        if flags[0] != 0u32 {
            chosen = -1i32;
        }
        let start = starts[sequence];
        let n_history = history.shape(1);
        history[sequence * n_history + start as usize % n_history] = chosen;
        tokens[sequence] = max(chosen, 0i32);
        starts[sequence] = start + 1i32;
        lengths[sequence] += 1i32;
    }
}

/// Chooses the next tokens and moves on, in place.
pub(crate) fn launch_next_tokens(
    logits: CubeTensor,
    active: CubeTensor,
    state: State<CubeBackend>,
) -> State<CubeBackend> {
    let State {
        tokens,
        starts,
        lengths,
        history,
    } = state;
    for (what, state) in [
        ("newest tokens", &tokens),
        ("starts", &starts),
        ("lengths", &lengths),
        ("history of tokens", &history),
    ] {
        assert_in_place("next_tokens", what, state);
    }
    let logits = into_contiguous(logits);
    let (batch, vocab_size) = (logits.meta.shape()[0], logits.meta.shape()[1]);
    let width = RowLayout::of(&logits).width;
    let client = logits.client.clone();
    let max_units = UNITS.min(client.properties().hardware.max_units_per_cube as usize);
    let units = (vocab_size / width)
        .next_power_of_two()
        .clamp(32.min(max_units), 1 << max_units.ilog2());
    let address = address_type(&[&logits, &history]);
    let dtype = dtype_to_storage_type(logits.dtype);
    // SAFETY: columns are masked by the vocabulary, slots by the size of the history; the shapes
    // were checked before the operation was registered.
    unsafe {
        next_tokens_kernel::launch_unchecked(
            &client,
            CubeCount::Static(batch as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            address,
            width,
            logits.into_tensor_arg(),
            active.into_tensor_arg(),
            tokens.clone().into_tensor_arg(),
            starts.clone().into_tensor_arg(),
            lengths.clone().into_tensor_arg(),
            history.clone().into_tensor_arg(),
            units,
            width,
            dtype,
        );
    }
    State {
        tokens,
        starts,
        lengths,
        history,
    }
}
