use cubecl::prelude::*;

use super::{partition::MAX_SPLITS, split::NO_SCORE};

/// Splits that a unit has in flight.
const IN_FLIGHT: usize = 4;

/// Merges the splits of a head by log-sum-exp. One cube per sequence and query head, `rows` units
/// per channel.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn merge_kernel<F: Float>(
    partial: &Tensor<f32>,
    weights: &Tensor<f32>,
    output: &mut Tensor<F>,
    #[comptime] columns: usize,
    #[comptime] rows: usize,
    #[define(F)] _dtype: ElemType,
) {
    let head = CUBE_POS_X as usize;
    let n_splits = partial.shape(1);
    let unit = UNIT_POS as usize;
    let column = unit % columns;
    let row = unit / columns;

    let mut shared_highest = Shared::<[f32]>::new_slice(MAX_SPLITS);
    let mut shared_total = Shared::<[f32]>::new_slice(MAX_SPLITS);
    let mut split = unit;
    while split < n_splits {
        shared_highest[split] = weights[(head * n_splits + split) * 2];
        shared_total[split] = weights[(head * n_splits + split) * 2 + 1];
        split += comptime!(columns * rows);
    }
    sync_cube();
    let mut highest = f32::new(NO_SCORE);
    for split in 0..n_splits {
        highest = max(highest, shared_highest[split]);
    }

    let mut total = f32::new(0.0);
    let mut out = f32::new(0.0);
    let mut first = row;
    while first < n_splits {
        let mut values = Array::<f32>::new(IN_FLIGHT);
        #[unroll]
        for i in 0..IN_FLIGHT {
            let split = min(first + i * rows, n_splits - 1);
            values[i] = partial[(head * n_splits + split) * columns + column];
        }
        #[unroll]
        for i in 0..IN_FLIGHT {
            let split = first + i * rows;
            // A split without tokens has not written its output.
            if split < n_splits && shared_total[split] > 0.0f32 {
                let weight = f32::exp(shared_highest[split] - highest);
                total += weight * shared_total[split];
                out = fma(weight, values[i], out);
            }
        }
        first += comptime!(rows * IN_FLIGHT);
    }

    if comptime!(rows > 1) {
        let mut shared_out = Shared::<[f32]>::new_slice(comptime!(rows * columns));
        let mut shared_rows = Shared::<[f32]>::new_slice(rows);
        shared_out[unit] = out;
        if column == 0 {
            shared_rows[row] = total;
        }
        sync_cube();
        if row == 0 {
            #[unroll]
            for other in 1..rows {
                total += shared_rows[other];
                out += shared_out[other * columns + column];
            }
        }
    }
    if row == 0 {
        let none = total == 0.0f32;
        let value = select(none, f32::new(0.0), out / select(none, f32::new(1.0), total));
        output[head * columns + column] = F::cast_from(value);
    }
}
