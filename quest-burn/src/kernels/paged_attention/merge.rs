use cubecl::prelude::*;

use super::softmax::NO_SCORE;

/// Splits that a unit has in flight.
const IN_FLIGHT: usize = 8;

/// How a cube merges splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    /// Query heads of the cube.
    pub heads: usize,
    pub head_dim: usize,
    pub units: usize,
    /// Room for the splits of all heads.
    pub slots: usize,
}

impl Merge {
    pub fn new(heads: usize, head_dim: usize, units: usize, n_splits: usize) -> Self {
        Self {
            heads,
            head_dim,
            units,
            slots: heads * n_splits.next_power_of_two(),
        }
    }

    /// Shared memory of the merge.
    pub fn shared_bytes(&self) -> usize {
        2 * (self.slots + self.rows() * self.elements()) * size_of::<f32>()
    }

    fn elements(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Splits that are read at a time.
    fn rows(&self) -> usize {
        (self.units / self.elements()).max(1)
    }
}

/// Merges the first `n_active` splits of the heads from `first_head` on by log-sum-exp. Every unit
/// of the cube must reach it.
#[cube]
pub(super) fn merge_splits<F: Float>(
    partial: &mut Tensor<f32>,
    output: &mut Tensor<F>,
    first_head: usize,
    n_active: usize,
    #[comptime] merge: Merge,
) {
    let n_splits = partial.shape(1);
    let columns = comptime!(merge.head_dim);
    let elements = comptime!(merge.elements());
    let rows = comptime!(merge.rows());
    let unit = UNIT_POS as usize;
    let stride = comptime!(merge.head_dim + 2);

    let mut highests = Shared::<[f32]>::new_slice(merge.slots);
    let mut totals = Shared::<[f32]>::new_slice(merge.slots);
    let mut slot = unit;
    while slot < n_active * merge.heads {
        let head = first_head + slot / n_active;
        let at = (head * n_splits + slot % n_active) * stride + columns;
        highests[slot] = partial[at];
        totals[slot] = partial[at + 1];
        slot += merge.units;
    }
    sync_cube();

    let mut row_outs = Shared::<[f32]>::new_slice(comptime!(rows * elements));
    let mut row_totals = Shared::<[f32]>::new_slice(comptime!(rows * elements));
    let row = unit / elements;
    let mut element = unit % elements;
    if comptime!(rows == 1) {
        element = unit;
    }
    while element < elements {
        let head = element / columns;
        let column = element % columns;
        let slots = head * n_active;
        let mut highest = f32::new(NO_SCORE);
        for split in 0..n_active {
            highest = max(highest, highests[slots + split]);
        }
        let mut total = f32::new(0.0);
        let mut out = f32::new(0.0);
        let mut first = row;
        if comptime!(rows == 1) {
            first = 0;
        }
        while first < n_active {
            let mut values = Array::<f32>::new(IN_FLIGHT);
            #[unroll]
            for i in 0..IN_FLIGHT {
                let split = min(first + i * rows, n_active - 1);
                let at = ((first_head + head) * n_splits + split) * stride;
                values[i] = partial[at + column];
            }
            #[unroll]
            for i in 0..IN_FLIGHT {
                let split = first + i * rows;
                // A split without tokens has not written its output. Selects, not a branch: into a
                // branch the loads above would sink, and wait for one another.
                let slot = slots + min(split, n_active - 1);
                let used = split < n_active && totals[slot] > 0.0f32;
                let weight = f32::exp(highests[slot] - highest);
                let weight = select(used, weight, f32::new(0.0));
                total += weight * totals[slot];
                out = fma(weight, select(used, values[i], f32::new(0.0)), out);
            }
            first += comptime!(rows * IN_FLIGHT);
        }
        if comptime!(rows == 1) {
            output[(first_head + head) * columns + column] = F::cast_from(ratio(out, total));
            element += merge.units;
        } else {
            if row < rows {
                row_outs[row * elements + element] = out;
                row_totals[row * elements + element] = total;
            }
            element = elements;
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
            output[first_head * columns + unit] = F::cast_from(ratio(out, total));
        }
    }
}

/// `out / total`, or 0 where no token was attended to.
#[cube]
fn ratio(out: f32, total: f32) -> f32 {
    let none = total == 0.0f32;
    select(
        none,
        f32::new(0.0),
        out / select(none, f32::new(1.0), total),
    )
}

/// Merges the splits of a head. One cube per sequence and query head.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn merge_kernel<F: Float>(
    partial: &mut Tensor<f32>,
    output: &mut Tensor<F>,
    #[comptime] merge: Merge,
    #[define(F)] _dtype: ElemType,
) {
    let n_splits = partial.shape(1);
    merge_splits::<F>(partial, output, CUBE_POS_X as usize, n_splits, merge);
}
