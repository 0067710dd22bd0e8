use cubecl::prelude::*;

use super::{super::row::lanes_max, args::SplitsArg, softmax::NO_SCORE};

/// Channels that a unit has in flight.
const CHANNELS_IN_FLIGHT: usize = 32;

/// How a cube merges the splits of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    /// Vectors of a row, and the channels of each.
    row: usize,
    width: usize,
    units: usize,
    /// Units that find the row max together.
    lanes: usize,
    /// Room for the splits.
    slots: usize,
}

impl Merge {
    /// The merge of up to `max_splits` splits.
    pub(super) fn new(
        row: usize,
        width: usize,
        units: usize,
        plane: usize,
        max_splits: usize,
    ) -> Self {
        Self {
            row,
            width,
            units,
            lanes: plane.min(1 << units.trailing_zeros()),
            slots: max_splits,
        }
    }

    /// Splits that are read at a time.
    fn rows(&self) -> usize {
        self.units / self.row
    }

    fn in_flight(&self) -> usize {
        (CHANNELS_IN_FLIGHT / self.width).max(1)
    }
}

/// `accumulator / row_sum`, or 0 where no token was attended to.
#[cube]
fn ratio<N: Size>(accumulator: Vector<f32, N>, row_sum: f32) -> Vector<f32, N> {
    let none = row_sum == 0.0f32;
    let inverse = 1.0f32 / select(none, f32::new(1.0), row_sum);
    accumulator * Vector::new(select(none, f32::new(0.0), inverse))
}

/// Loads what a unit has in flight: a vector of the splits from `first` on, as many apart as are read
/// at a time.
#[cube]
fn load_rows<N: Size>(
    values: &mut Array<Vector<f32, N>>,
    sums: &Tensor<Vector<f32, N>>,
    head: usize,
    first: usize,
    column: usize,
    #[comptime] merge: Merge,
) {
    let n_splits = sums.shape(1);
    let in_flight = comptime!(merge.in_flight());
    let rows = comptime!(merge.rows());
    #[unroll]
    for i in 0..in_flight {
        let split = min(first + i * rows, n_splits - 1);
        values[i] = sums[(head * n_splits + split) * merge.row + column];
    }
}

/// Merges the splits of a head by log-sum-exp. One cube per sequence and query head; a unit for each
/// vector of as many splits as are read at a time.
///
/// The first rows of the sums are on their way while the row max is found.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn merge_kernel<F: Float, N: Size>(
    splits: &SplitsArg<N>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] merge: Merge,
    #[define(F)] _dtype: ElemType,
) {
    let head = CUBE_POS_X as usize;
    let n_splits = splits.sums.shape(1);
    let columns = comptime!(merge.row);
    let rows = comptime!(merge.rows());
    let in_flight = comptime!(merge.in_flight());
    let unit = UNIT_POS as usize;

    let row = unit / columns;
    let column = unit % columns;
    let mut values = Array::<Vector<f32, N>>::new(in_flight);
    load_rows::<N>(&mut values, &splits.sums, head, row, column, merge);

    let mut row_maxima = Shared::<[f32]>::new_slice(merge.slots);
    let mut row_sums = Shared::<[f32]>::new_slice(merge.slots);
    let mut split = unit;
    while split < n_splits {
        let at = (head * n_splits + split) * 2;
        row_maxima[split] = splits.stats[at];
        row_sums[split] = splits.stats[at + 1];
        split += merge.units;
    }
    sync_cube();
    let mut row_max = f32::new(NO_SCORE);
    let mut split = unit % merge.lanes;
    while split < n_splits {
        row_max = max(row_max, row_maxima[split]);
        split += merge.lanes;
    }
    let row_max = lanes_max(row_max, merge.lanes);

    let mut partial_accumulators = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rows * columns));
    let mut partial_sums = Shared::<[f32]>::new_slice(comptime!(rows * columns));
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut row_sum = f32::new(0.0);
    let mut accumulator = zero;
    let mut first = row;
    while first < n_splits {
        #[unroll]
        for i in 0..in_flight {
            let split = first + i * rows;
            // A split without tokens has not written its output. Selects, not a branch: into a
            // branch the loads would sink, and wait for one another.
            let slot = min(split, n_splits - 1);
            let used = split < n_splits && row_sums[slot] > 0.0f32;
            let weight = f32::exp(row_maxima[slot] - row_max);
            let weight = select(used, weight, f32::new(0.0));
            row_sum += weight * row_sums[slot];
            accumulator = fma(
                Vector::new(weight),
                select(used, values[i], zero),
                accumulator,
            );
        }
        first += comptime!(rows * in_flight);
        if first < n_splits {
            load_rows::<N>(&mut values, &splits.sums, head, first, column, merge);
        }
    }
    partial_accumulators[unit] = accumulator;
    partial_sums[unit] = row_sum;
    sync_cube();
    if unit < columns {
        #[unroll]
        for other in 1..rows {
            row_sum += partial_sums[other * columns + unit];
            accumulator += partial_accumulators[other * columns + unit];
        }
        output[head * columns + unit] = Vector::cast_from(ratio::<N>(accumulator, row_sum));
    }
}
