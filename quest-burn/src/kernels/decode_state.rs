//! The state of a captured decode step on the device: what a replay reads and moves on.

use burn::{
    backend::{Dispatch, cubecl::dtype_to_storage_type},
    tensor::{DType, Int, Tensor, assert_shape},
};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    check_dtype,
    launch::{address_type, assert_in_place},
    row::RowLayout,
};
use crate::ops::extension::QuestOps;

/// Most units of a cube.
const UNITS: usize = 1024;
/// Vectors of logits that a unit has in flight.
const IN_FLIGHT: usize = 4;

/// What a captured decode step carries from one replay to the next.
#[derive(Debug)]
pub struct DecodeState {
    /// The newest token of each sequence, which is not in the cache yet, `[batch]`.
    pub tokens: Tensor<1, Int>,
    /// Tokens in the cache before the step, `[batch]`.
    pub starts: Tensor<1, Int>,
    /// Tokens in the cache after the step, `[batch]`.
    pub lengths: Tensor<1, Int>,
    /// Tokens that steps have chosen, `[batch, n]`: the one after `p` tokens is at `p % n`.
    pub history: Tensor<2, Int>,
}

/// Ends a decode step: chooses the token of the highest logit (the lower one of equals) and moves
/// on to the next position, all in place.
///
/// Where a sequence has no answer, because a logit is NaN or infinite or all are negative infinity,
/// the history gets -1 and the next token is 0. A sequence that is not active stays as it is.
///
/// # Shapes
///
/// - logits: `[batch, vocab_size]`
/// - active: `[batch]`, 0 or 1
/// - all integers in i32
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or the state cannot be written in place (with the
/// `fusion` feature at the next synchronisation).
pub fn next_tokens(logits: Tensor<2>, active: Tensor<1, Int>, state: DecodeState) -> DecodeState {
    let DecodeState {
        tokens,
        starts,
        lengths,
        history,
    } = state;
    let [batch, n] = history.dims();
    let [_, vocab_size] = logits.dims();
    assert_shape!(logits, [batch, vocab_size]);
    for (what, counts) in [
        ("active sequences", &active),
        ("tokens", &tokens),
        ("starts", &starts),
        ("lengths", &lengths),
    ] {
        assert_shape!(counts, [batch]);
        check_dtype(what, counts.dtype(), DType::I32);
    }
    check_dtype("history", history.dtype(), DType::I32);
    assert!(
        n > 0,
        "history: expected room for at least 1 token, found 0"
    );
    assert!(
        vocab_size > 0,
        "logits: expected at least one token, found 0"
    );
    let (tokens, starts, lengths, history) = Dispatch::next_tokens(
        logits.into_dispatch(),
        active.into_dispatch(),
        tokens.into_dispatch(),
        starts.into_dispatch(),
        lengths.into_dispatch(),
        history.into_dispatch(),
    );
    DecodeState {
        tokens: Tensor::from_dispatch(tokens),
        starts: Tensor::from_dispatch(starts),
        lengths: Tensor::from_dispatch(lengths),
        history: Tensor::from_dispatch(history),
    }
}

/// Writes `values` over `target`, in place: how the host speaks to a captured step.
///
/// # Shapes
///
/// - target, values, output: `[n]` in i32
///
/// # Panics
///
/// When shapes or dtypes differ, or the target cannot be written in place.
pub fn assign(target: Tensor<1, Int>, values: Tensor<1, Int>) -> Tensor<1, Int> {
    let [n] = target.dims();
    assert_shape!(values, [n]);
    check_dtype("target", target.dtype(), DType::I32);
    check_dtype("values", values.dtype(), DType::I32);
    Tensor::from_dispatch(Dispatch::assign(
        target.into_dispatch(),
        values.into_dispatch(),
    ))
}

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
    let mut best_id = -1i32;
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
#[allow(clippy::type_complexity)]
pub(crate) fn launch_next_tokens(
    logits: CubeTensor,
    active: CubeTensor,
    tokens: CubeTensor,
    starts: CubeTensor,
    lengths: CubeTensor,
    history: CubeTensor,
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
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
    let most = UNITS.min(client.properties().hardware.max_units_per_cube as usize);
    let units = (vocab_size / width)
        .next_power_of_two()
        .clamp(32, 1 << most.ilog2());
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
    (tokens, starts, lengths, history)
}

#[cube(launch_unchecked)]
fn assign_kernel(target: &mut Tensor<i32>, values: &Tensor<i32>) {
    let i = CUBE_POS_X as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if i < target.shape(0) {
        target[i] = values[i];
    }
}

/// Writes values over a target, in place.
pub(crate) fn launch_assign(target: CubeTensor, values: CubeTensor) -> CubeTensor {
    const UNITS: usize = 32;
    assert_in_place("assign", "a target", &target);
    let values = into_contiguous(values);
    let n = target.meta.shape()[0];
    let client = target.client.clone();
    // SAFETY: the index is masked by the size of the target, which is that of the values.
    unsafe {
        assign_kernel::launch_unchecked(
            &client,
            CubeCount::Static(n.div_ceil(UNITS) as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            target.clone().into_tensor_arg(),
            values.into_tensor_arg(),
        );
    }
    target
}
