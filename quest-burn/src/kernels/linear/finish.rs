use cubecl::prelude::*;

use super::{
    super::row::{lanes_scatter_sum, lanes_sum},
    shape::GemvShape,
};

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

/// Adds up the sums of all units, and writes the outputs of a cube.
///
/// `sums[w * rows + row]` is a unit's part of the product of a plane's `w`-th weight row with a left
/// side.
#[cube]
pub(super) fn finish<F: Float>(
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
        epilogue,
        ..
    } = comptime!(shape);
    let n_sums = comptime!(shape.sums());
    let columns = output.shape(1);
    let lane = UNIT_POS as usize % plane;
    let own_plane = UNIT_POS as usize / plane;

    // Sums of all planes in shared memory, for those that share a weight row and for the gates.
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
    let mut i = UNIT_POS as usize;
    while i < comptime!(units / plane / split * outputs * m) {
        let first_plane = i / per_plane * split;
        let row = i % m;
        let w = i % per_plane / m;
        let channel = CUBE_POS_X as usize * comptime!(shape.cube_outputs()) + i / m;
        if channel < columns {
            let mut value = total(&shared, first_plane, w * m + row, shape);
            if comptime!(epilogue.biased) {
                value += f32::cast_from(bias[channel]);
            }
            if comptime!(epilogue.gated) {
                let mut up = total(&shared, first_plane, (w + outputs) * m + row, shape);
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
        i += units;
    }
}
