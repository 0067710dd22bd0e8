use cubecl::prelude::*;

use super::{
    super::row::{lanes_scatter_sum, lanes_sum},
    Epilogue,
    args::OutputArg,
    shape::GemvShape,
};

/// What is added to an output channel of an LHS row; past the end that of the last one.
#[cube]
pub(super) fn addend<F: Float>(
    residual: &Tensor<F>,
    row: usize,
    channel: usize,
    columns: usize,
    #[comptime] epilogue: Epilogue,
) -> f32 {
    if comptime!(epilogue.added) {
        f32::cast_from(residual[row * columns + min(channel, columns - 1)])
    } else {
        f32::new(0.0)
    }
}

/// Writes an output channel of an LHS row: its sum, and that of its gated counterpart, with its
/// [`addend`].
#[cube]
pub(super) fn write<F: Float>(
    sum: f32,
    up: f32,
    added: f32,
    row: usize,
    channel: usize,
    out: &mut OutputArg<F>,
    #[comptime] epilogue: Epilogue,
) {
    let columns = out.output.shape(1);
    if channel < columns {
        let mut value = sum;
        if comptime!(epilogue.biased) {
            value += f32::cast_from(out.bias[channel]);
        }
        if comptime!(epilogue.gated) {
            let mut up = up;
            if comptime!(epilogue.biased) {
                up += f32::cast_from(out.bias[columns + channel]);
            }
            value = value / (f32::exp(-value) + 1.0f32) * up;
        }
        if comptime!(epilogue.added) {
            value += added;
        }
        out.output[row * columns + channel] = F::cast_from(value);
    }
}

/// The sum of one weight row and one LHS row over the planes that share them.
#[cube]
fn total(
    sums: &mut Shared<[f32]>,
    first: usize,
    index: usize,
    #[comptime] shape: GemvShape,
) -> f32 {
    let n = comptime!(shape.sums());
    let split = comptime!(shape.split);
    let mut total = f32::new(0.0);
    #[unroll]
    for part in 0..split {
        total += sums[first + part * n + index];
    }
    total
}

/// Adds up the sums of all units, and writes the outputs of a cube from `first_output` on. Every unit
/// must reach it.
///
/// `sums[w * rows + row]` is a unit's part of the product of its plane's `w`-th weight row with an LHS
/// row. `shared` holds the sums of all planes twice: those of one turn are read while those of the
/// next are written.
#[cube]
pub(super) fn reduce_and_write<F: Float>(
    sums: &mut Array<f32>,
    shared: &mut Shared<[f32]>,
    turn: usize,
    first_output: usize,
    out: &mut OutputArg<F>,
    #[comptime] shape: GemvShape,
) {
    let GemvShape {
        plane,
        units,
        split,
        rows: m,
        outputs,
        ..
    } = comptime!(shape);
    let n_sums = comptime!(shape.sums());
    let lane = UNIT_POS as usize % plane;
    let own_plane = UNIT_POS as usize / plane;

    let base = turn % 2 * comptime!(units / plane * n_sums);
    if comptime!(n_sums <= plane) {
        let spread = comptime!(plane / n_sums);
        let sum = lanes_scatter_sum(sums, n_sums, plane);
        if lane % spread == 0 {
            shared[base + own_plane * n_sums + lane / spread] = sum;
        }
    } else {
        #[unroll]
        for i in 0..n_sums {
            let sum = lanes_sum(sums[i], plane);
            if lane == 0 {
                shared[base + own_plane * n_sums + i] = sum;
            }
        }
    }
    sync_cube();

    let per_plane = comptime!(outputs * m);
    let gate_to_up = comptime!(if shape.epilogue.gated { per_plane } else { 0 });
    let columns = out.output.shape(1);
    let mut i = UNIT_POS as usize;
    while i < comptime!(units / plane / split * outputs * m) {
        let first = base + i / per_plane * comptime!(split * n_sums);
        let index = i % per_plane;
        let sum = total(shared, first, index, shape);
        let up = total(shared, first, index + gate_to_up, shape);
        let channel = first_output + i / m;
        let added = addend::<F>(&out.residual, i % m, channel, columns, shape.epilogue);
        write::<F>(sum, up, added, i % m, channel, out, shape.epilogue);
        i += units;
    }
}
