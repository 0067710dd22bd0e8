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
    /// Units that find the highest score together.
    lanes: usize,
    /// Room for the splits.
    slots: usize,
}

impl Merge {
    /// The merge of up to `max_splits` splits.
    pub fn new(row: usize, width: usize, units: usize, plane: usize, max_splits: usize) -> Self {
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

/// `out / total`, or 0 where no token was attended to.
#[cube]
fn ratio<N: Size>(out: Vector<f32, N>, total: f32) -> Vector<f32, N> {
    let none = total == 0.0f32;
    let inverse = 1.0f32 / select(none, f32::new(1.0), total);
    out * Vector::new(select(none, f32::new(0.0), inverse))
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

    let mut highests = Shared::<[f32]>::new_slice(merge.slots);
    let mut totals = Shared::<[f32]>::new_slice(merge.slots);
    let mut split = unit;
    while split < n_splits {
        let at = (head * n_splits + split) * 2;
        highests[split] = splits.stats[at];
        totals[split] = splits.stats[at + 1];
        split += merge.units;
    }
    sync_cube();
    let mut highest = f32::new(NO_SCORE);
    let mut split = unit % merge.lanes;
    while split < n_splits {
        highest = max(highest, highests[split]);
        split += merge.lanes;
    }
    let highest = lanes_max(highest, merge.lanes);

    let mut row_outs = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rows * columns));
    let mut row_totals = Shared::<[f32]>::new_slice(comptime!(rows * columns));
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut total = f32::new(0.0);
    let mut out = zero;
    let mut first = row;
    while first < n_splits {
        #[unroll]
        for i in 0..in_flight {
            let split = first + i * rows;
            // A split without tokens has not written its output. Selects, not a branch: into a
            // branch the loads would sink, and wait for one another.
            let slot = min(split, n_splits - 1);
            let used = split < n_splits && totals[slot] > 0.0f32;
            let weight = f32::exp(highests[slot] - highest);
            let weight = select(used, weight, f32::new(0.0));
            total += weight * totals[slot];
            out = fma(Vector::new(weight), select(used, values[i], zero), out);
        }
        first += comptime!(rows * in_flight);
        if first < n_splits {
            load_rows::<N>(&mut values, &splits.sums, head, first, column, merge);
        }
    }
    row_outs[unit] = out;
    row_totals[unit] = total;
    sync_cube();
    if unit < columns {
        #[unroll]
        for other in 1..rows {
            total += row_totals[other * columns + unit];
            out += row_outs[other * columns + unit];
        }
        output[head * columns + unit] = Vector::cast_from(ratio::<N>(out, total));
    }
}
