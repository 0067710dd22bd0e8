use cubecl::prelude::*;

use super::{
    super::{Packing, args::ActivationsArg},
    choice::{empty_list, fill_list, norm_divisor},
    load::ChannelLoad,
    shape::ChannelShape,
};

/// Products of a row with the weights of the channels that are taken; see [`ChannelShape`].
///
/// Cubes along x have neighbouring outputs, those along y a segment of the channels each. Their sums are kept,
/// `[segments, 1, d_output]`, from the segment `first_segment` on. Scales are those of weights in words; a
/// placeholder elsewhere.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn channels_kernel<L: ChannelLoad, F: Float, N: Size, E: Numeric, W: Size>(
    row: &ActivationsArg<F, N>,
    norms: &Tensor<Vector<f32, N>>,
    weights: &Tensor<Vector<E, W>>,
    scales: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    threshold: f32,
    row_vectors: usize,
    first_segment: usize,
    #[comptime] packing: Packing,
    #[comptime] shape: ChannelShape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _weight_type: ElemType,
) {
    let ChannelShape {
        units,
        lanes,
        load,
        in_flight,
        ..
    } = comptime!(shape);
    let per_load = comptime!(shape.per_load);
    let groups = comptime!(shape.groups());
    let outputs = comptime!(lanes * per_load);
    let n = sums.shape(2);
    // Loads of a channel's weights.
    let loads = n / per_load;
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let group = unit / lanes;
    // Past the end the last load is read; its sums are not written.
    let column = min(CUBE_POS_X as usize * lanes + lane, loads - 1);

    let segment = CUBE_POS_Y as usize;
    let segments = CUBE_COUNT_Y as usize;
    let end = (segment + 1) * row_vectors / segments;
    let mut first = segment * row_vectors / segments;

    let divisor = norm_divisor::<F, N>(row, row_vectors, shape);
    let mut list = empty_list(shape);
    let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(units / shape.plane));
    let mut own = Array::<f32>::new(per_load);
    #[unroll]
    for i in 0..per_load {
        own[i] = 0.0f32;
    }
    let mut loaded = Array::<Vector<E, W>>::new(in_flight);
    let mut values = Array::<f32>::new(in_flight);
    while first < end {
        fill_list::<F, N>(
            &mut list,
            &mut plane_sums,
            row,
            norms,
            divisor,
            threshold,
            first,
            end,
            row_vectors,
            shape,
        );
        let length = list.length[0] as usize;
        let mut at = group;
        while at < length {
            #[unroll]
            for i in 0..in_flight {
                // Past the end the last channel of the list is read once more, and not added.
                let entry = min(at + i * groups, length - 1);
                let place = list.channels[entry] as usize * loads + column;
                let mut value = list.values[entry];
                loaded[i] = weights[place];
                if comptime!(!packing.is_whole()) {
                    value *= scales[place / comptime!(packing.loads_per_group())];
                }
                values[i] = value;
            }
            #[unroll]
            for i in 0..in_flight {
                if at + i * groups < length {
                    L::add::<E, W>(&mut own, loaded[i], values[i], load, packing);
                }
            }
            at += comptime!(groups * in_flight);
        }
        first += units;
    }

    let mut shared = Shared::<[f32]>::new_slice(comptime!(units * per_load));
    #[unroll]
    for i in 0..per_load {
        shared[unit * per_load + i] = own[i];
    }
    sync_cube();
    let first_output = CUBE_POS_X as usize * outputs;
    let mut i = unit;
    while i < outputs {
        if first_output + i < n {
            let mut sum = f32::new(0.0);
            #[unroll]
            for other in 0..groups {
                sum += shared[other * outputs + i];
            }
            sums[(first_segment + segment) * n + first_output + i] = sum;
        }
        i += units;
    }
}
