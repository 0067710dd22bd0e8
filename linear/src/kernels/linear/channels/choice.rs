//! Which channels of a part of the row a cube reads.

use cubecl::prelude::*;

use super::{
    super::{
        super::{
            rms_norm::scaled,
            row::{cube_prefix_sum, cube_sum},
        },
        args::ActivationsArg,
    },
    shape::{ChannelShape, Taken},
};

/// The channels that a cube reads, and the row's values there.
#[derive(CubeType)]
pub(super) struct ChannelList {
    pub channels: Shared<[u32]>,
    pub values: Shared<[f32]>,
    /// Their number.
    pub length: Shared<[u32]>,
}

/// Room for as many channels as the vectors have that the units of a cube take at a time.
#[cube]
pub(super) fn empty_list(#[comptime] shape: ChannelShape) -> ChannelList {
    let most = comptime!(shape.units * shape.width);
    ChannelList {
        channels: Shared::<[u32]>::new_slice(most),
        values: Shared::<[f32]>::new_slice(most),
        length: Shared::<[u32]>::new_slice(1usize),
    }
}

/// Lists the channels of the row's vectors from `first` on that are taken, of as many vectors as the cube has units
/// and below `end`. Every unit of the cube must reach it, and none may still read the list when another one has
/// left the first barrier.
#[cube]
pub(super) fn fill_list<F: Float, N: Size>(
    list: &mut ChannelList,
    plane_sums: &mut Shared<[u32]>,
    row: &ActivationsArg<F, N>,
    norms: &Tensor<Vector<f32, N>>,
    divisor: f32,
    threshold: f32,
    first: usize,
    end: usize,
    vectors: usize,
    #[comptime] shape: ChannelShape,
) {
    let ChannelShape {
        units,
        plane,
        width,
        ..
    } = comptime!(shape);
    let unit = UNIT_POS as usize;
    let is_in = first + unit < end;
    let at = min(first + unit, end - 1);
    let values = row_vector::<F, N>(row, divisor, at, vectors, shape);
    let norms = if comptime!(shape.taken == Taken::All) {
        Vector::<f32, N>::new(0.0f32)
    } else {
        Vector::<f32, N>::cast_from(norms[at])
    };
    let mut count = 0u32;
    #[unroll]
    for i in 0..width {
        let taken = is_taken(values.extract(i), norms.extract(i), threshold, shape);
        count += select(is_in, taken, 0u32);
    }
    let mut slot = cube_prefix_sum(count, plane_sums, units, plane);
    if unit == units - 1 {
        list.length[0] = slot + count;
    }
    #[unroll]
    for i in 0..width {
        let value = values.extract(i);
        let taken = is_taken(value, norms.extract(i), threshold, shape);
        if is_in && taken == 1u32 {
            list.channels[slot as usize] = (at * width + i) as u32;
            list.values[slot as usize] = value;
            slot += 1u32;
        }
    }
    sync_cube();
}

/// Whether a channel is taken: 1 or 0.
#[cube]
fn is_taken(value: f32, norm: f32, threshold: f32, #[comptime] shape: ChannelShape) -> u32 {
    // What is no number is not skipped.
    let is_skipped = f32::abs(value) * norm <= threshold;
    if comptime!(shape.taken == Taken::Skipped) {
        select(is_skipped, 1u32, 0u32)
    } else {
        select(is_skipped, 0u32, 1u32)
    }
}

/// A vector of the row: normed, or added up, where it is there in parts.
#[cube]
fn row_vector<F: Float, N: Size>(
    row: &ActivationsArg<F, N>,
    divisor: f32,
    at: usize,
    vectors: usize,
    #[comptime] shape: ChannelShape,
) -> Vector<f32, N> {
    if comptime!(shape.normed) {
        let value = Vector::<f32, N>::cast_from(row.rows[at]) / Vector::<f32, N>::new(divisor);
        Vector::<f32, N>::cast_from(scaled::<F, N>(value, row.gamma[at]))
    } else {
        let mut sum = Vector::<f32, N>::cast_from(row.rows[at]);
        #[unroll]
        for part in 1..shape.parts {
            sum += Vector::<f32, N>::cast_from(row.rows[part * vectors + at]);
        }
        sum
    }
}

/// What the row is divided by to be normed, if it is. Every unit of the cube must reach it.
///
/// Every cube reads the whole row for it: that costs less than a launch.
#[cube]
pub(super) fn norm_divisor<F: Float, N: Size>(
    row: &ActivationsArg<F, N>,
    vectors: usize,
    #[comptime] shape: ChannelShape,
) -> f32 {
    if comptime!(shape.normed) {
        let ChannelShape { units, plane, .. } = comptime!(shape);
        let mut sum = f32::new(0.0);
        let mut i = UNIT_POS as usize;
        while i < vectors {
            let value = Vector::<f32, N>::cast_from(row.rows[i]);
            sum += (value * value).vector_sum();
            i += units;
        }
        let total = cube_sum(sum, units, plane);
        let channels = f32::cast_from(vectors * comptime!(shape.width));
        f32::sqrt(total / channels + row.epsilon)
    } else {
        f32::new(1.0)
    }
}
