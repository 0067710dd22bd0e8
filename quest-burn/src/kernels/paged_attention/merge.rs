use cubecl::prelude::*;

use super::softmax::NO_SCORE;

/// Channels that a unit has in flight.
const CHANNELS_IN_FLIGHT: usize = 32;

/// How a cube merges splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    /// Query heads of the cube.
    heads: usize,
    /// Vectors of a row, and the channels of each.
    row: usize,
    width: usize,
    units: usize,
    /// Room for the splits of all heads.
    slots: usize,
}

impl Merge {
    /// The merge of up to `max_splits` splits of each of `heads` query heads.
    pub fn new(heads: usize, row: usize, width: usize, units: usize, max_splits: usize) -> Self {
        Self {
            heads,
            row,
            width,
            units,
            slots: heads * max_splits,
        }
    }

    /// Shared memory of the merge.
    pub fn shared_bytes(&self) -> usize {
        let rows = self.rows() * self.elements() * (self.width + 1);
        (2 * self.slots + rows) * size_of::<f32>()
    }

    /// Query heads of the cube.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Vectors that are merged, each in as many units as read splits at a time.
    fn elements(&self) -> usize {
        self.heads * self.row
    }

    /// Splits that are read at a time.
    fn rows(&self) -> usize {
        (self.units / self.elements()).max(1)
    }

    fn in_flight(&self) -> usize {
        (CHANNELS_IN_FLIGHT / self.width).max(1)
    }
}

/// Merges the first `n_active` splits of the heads from `first_head` on by log-sum-exp. Every unit
/// of the cube must reach it.
///
/// `partial` is `[heads, n_splits, head_dim]`, `stats` `[heads, n_splits, 2]`: highest score and
/// total of the weights.
#[cube]
pub(super) fn merge_splits<F: Float, N: Size>(
    partial: &mut Tensor<Vector<f32, N>>,
    stats: &mut Tensor<f32>,
    output: &mut Tensor<Vector<F, N>>,
    first_head: usize,
    n_active: usize,
    #[comptime] merge: Merge,
) {
    let n_splits = partial.shape(1);
    let columns = comptime!(merge.row);
    let elements = comptime!(merge.elements());
    let rows = comptime!(merge.rows());
    let in_flight = comptime!(merge.in_flight());
    let unit = UNIT_POS as usize;

    let mut highests = Shared::<[f32]>::new_slice(merge.slots);
    let mut totals = Shared::<[f32]>::new_slice(merge.slots);
    let mut slot = unit;
    while slot < n_active * merge.heads {
        let head = first_head + slot / n_active;
        let at = (head * n_splits + slot % n_active) * 2;
        highests[slot] = stats[at];
        totals[slot] = stats[at + 1];
        slot += merge.units;
    }
    sync_cube();

    let mut row_outs = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rows * elements));
    let mut row_totals = Shared::<[f32]>::new_slice(comptime!(rows * elements));
    let row = unit / elements;
    let mut element = unit % elements;
    let mut end = elements.runtime();
    if comptime!(rows == 1) {
        element = unit;
    } else if row >= rows {
        end = 0usize;
    }
    let zero = Vector::<f32, N>::new(0.0f32);
    while element < end {
        let head = element / columns;
        let column = element % columns;
        let slots = head * n_active;
        let mut highest = f32::new(NO_SCORE);
        for split in 0..n_active {
            highest = max(highest, highests[slots + split]);
        }
        let mut total = f32::new(0.0);
        let mut out = zero;
        let mut first = row;
        if comptime!(rows == 1) {
            first = 0;
        }
        while first < n_active {
            let mut values = Array::<Vector<f32, N>>::new(in_flight);
            #[unroll]
            for i in 0..in_flight {
                let split = min(first + i * rows, n_active - 1);
                let at = ((first_head + head) * n_splits + split) * columns;
                values[i] = partial[at + column];
            }
            #[unroll]
            for i in 0..in_flight {
                let split = first + i * rows;
                // A split without tokens has not written its output. Selects, not a branch: into a
                // branch the loads above would sink, and wait for one another.
                let slot = slots + min(split, n_active - 1);
                let used = split < n_active && totals[slot] > 0.0f32;
                let weight = f32::exp(highests[slot] - highest);
                let weight = select(used, weight, f32::new(0.0));
                total += weight * totals[slot];
                out = fma(Vector::new(weight), select(used, values[i], zero), out);
            }
            first += comptime!(rows * in_flight);
        }
        if comptime!(rows == 1) {
            output[first_head * columns + element] = Vector::cast_from(ratio::<N>(out, total));
            element += merge.units;
        } else {
            row_outs[row * elements + element] = out;
            row_totals[row * elements + element] = total;
            element = end;
        }
    }
    if comptime!(rows > 1) {
        sync_cube();
        if unit < elements {
            let mut total = row_totals[unit];
            let mut out = row_outs[unit];
            #[unroll]
            for other in 1..rows {
                total += row_totals[other * elements + unit];
                out += row_outs[other * elements + unit];
            }
            output[first_head * columns + unit] = Vector::cast_from(ratio::<N>(out, total));
        }
    }
}

/// `out / total`, or 0 where no token was attended to.
#[cube]
fn ratio<N: Size>(out: Vector<f32, N>, total: f32) -> Vector<f32, N> {
    let none = total == 0.0f32;
    let inverse = 1.0f32 / select(none, f32::new(1.0), total);
    out * Vector::new(select(none, f32::new(0.0), inverse))
}

/// Merges the splits of a head. One cube per sequence and query head.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn merge_kernel<F: Float, N: Size>(
    partial: &mut Tensor<Vector<f32, N>>,
    stats: &mut Tensor<f32>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] merge: Merge,
    #[define(F)] _dtype: ElemType,
) {
    let n_splits = partial.shape(1);
    merge_splits::<F, N>(partial, stats, output, CUBE_POS_X as usize, n_splits, merge);
}
