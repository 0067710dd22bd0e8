use cubecl::prelude::*;

use super::{
    super::row::{lanes_scatter_sum, lanes_sum},
    shape::GemvShape,
};

/// Writes an output channel of a left side: its sum, and that of its gated counterpart.
#[cube]
fn write<F: Float>(
    sum: f32,
    up: f32,
    row: usize,
    channel: usize,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] shape: GemvShape,
) {
    let epilogue = comptime!(shape.epilogue);
    let columns = output.shape(1);
    if channel < columns {
        let mut value = sum;
        if comptime!(epilogue.biased) {
            value += f32::cast_from(bias[channel]);
        }
        if comptime!(epilogue.gated) {
            let mut up = up;
            if comptime!(epilogue.biased) {
                up += f32::cast_from(bias[columns + channel]);
            }
            value = value / (f32::exp(-value) + 1.0f32) * up;
        }
        if comptime!(epilogue.added) {
            value += f32::cast_from(residual[row * columns + channel]);
        }
        output[row * columns + channel] = F::cast_from(value);
    }
}

/// Adds up the sums of a plane's units, and writes its outputs from `first_output` on.
///
/// `sums[w * rows + row]` is a unit's part of the product of the plane's `w`-th weight row with a
/// left side.
#[cube]
pub(super) fn finish_plane<F: Float>(
    sums: &mut Array<f32>,
    first_output: usize,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    #[comptime] shape: GemvShape,
) {
    let GemvShape {
        plane,
        rows: m,
        outputs,
        ..
    } = comptime!(shape);
    let n_sums = comptime!(shape.sums());
    let n = comptime!(outputs * m);
    let gated = comptime!(shape.epilogue.gated);
    let lane = UNIT_POS as usize % plane;
    if comptime!(n_sums <= plane) {
        let spread = comptime!(plane / n_sums);
        let sum = lanes_scatter_sum(sums, n_sums, plane);
        let mut up = f32::new(0.0);
        if comptime!(gated) {
            let base = UNIT_POS_PLANE / comptime!(plane as u32) * comptime!(plane as u32);
            let counterpart = min(lane + comptime!(n * spread), comptime!(plane - 1));
            up = plane_shuffle(sum, base + counterpart as u32);
        }
        let index = lane / spread;
        if lane % spread == 0 && index < n {
            let channel = first_output + index / m;
            write::<F>(sum, up, index % m, channel, bias, residual, output, shape);
        }
    } else {
        #[unroll]
        for i in 0..n_sums {
            sums[i] = lanes_sum(sums[i], plane);
        }
        if lane == 0 {
            #[unroll]
            for i in 0..n {
                let up = sums[comptime!(if gated { i + n } else { i })];
                let channel = first_output + comptime!(i / m);
                let row = comptime!(i % m).runtime();
                write::<F>(sums[i], up, row, channel, bias, residual, output, shape);
            }
        }
    }
}

/// The sum of one weight row and one left side over the planes that share them.
#[cube]
fn total(
    sums: &Shared<[f32]>,
    first_plane: usize,
    index: usize,
    #[comptime] shape: GemvShape,
) -> f32 {
    let n = comptime!(shape.sums());
    let split = comptime!(shape.split);
    let mut total = f32::new(0.0);
    #[unroll]
    for part in 0..split {
        total += sums[(first_plane + part) * n + index];
    }
    total
}

/// As [`finish_plane`] for all planes of a cube, several of which share their weight rows.
#[cube]
pub(super) fn finish_cube<F: Float>(
    sums: &mut Array<f32>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
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

    let planes = comptime!(units / plane);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(planes * n_sums));
    if comptime!(n_sums <= plane) {
        let spread = comptime!(plane / n_sums);
        let sum = lanes_scatter_sum(sums, n_sums, plane);
        if lane % spread == 0 {
            shared[own_plane * n_sums + lane / spread] = sum;
        }
    } else {
        #[unroll]
        for i in 0..n_sums {
            let sum = lanes_sum(sums[i], plane);
            if lane == 0 {
                shared[own_plane * n_sums + i] = sum;
            }
        }
    }
    sync_cube();

    let per_plane = comptime!(outputs * m);
    let gate_to_up = comptime!(if shape.epilogue.gated { per_plane } else { 0 });
    let mut i = UNIT_POS as usize;
    while i < comptime!(units / plane / split * outputs * m) {
        let first_plane = i / per_plane * split;
        let index = i % per_plane;
        let channel = CUBE_POS_X as usize * comptime!(shape.cube_outputs()) + i / m;
        let sum = total(&shared, first_plane, index, shape);
        let up = total(&shared, first_plane, index + gate_to_up, shape);
        write::<F>(sum, up, i % m, channel, bias, residual, output, shape);
        i += units;
    }
}
