use cubecl::prelude::*;

use super::{
    super::{
        super::matrix_instruction::{PLANE, ROWS},
        args::{ActivationsArg, OutputArg, WeightsArg},
        epilogue::{addend, write},
        load::nothing_loaded,
    },
    lhs::{load_pieces, prefetched, root_mean_square, stage_lhs},
    products::add_segment,
    shape::{LANES, MatrixShape, PLANES},
    weights::{load_segment, own_chunk, own_step, row_of},
};

/// Cubes take runs of 16 weight rows in turns.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn matrix_kernel<F: Float, N: Size, W: Size, H: Size>(
    activations: &ActivationsArg<F, N>,
    weights: &WeightsArg<i32, W, F, H>,
    output: &mut OutputArg<F>,
    #[comptime] shape: MatrixShape,
    #[define(F)] _dtype: ElemType,
) {
    let m = comptime!(shape.lhs_rows);
    let chunks = comptime!(shape.chunks());
    let sides = comptime!(shape.sides());
    let tiles = comptime!(shape.tiles());
    let segments = comptime!(shape.segments());
    let outputs = comptime!(shape.outputs());
    let in_flight = comptime!(shape.in_flight());
    let n_sums = comptime!(PLANES * ROWS * m);
    let columns = output.output.shape(1);
    let unit = UNIT_POS as usize;
    let plane = unit / PLANE;
    let at_once = CUBE_COUNT_X as usize * outputs;
    let mut first_output = CUBE_POS_X as usize * outputs;

    let per_round = comptime!(in_flight * PLANES);
    let rounds = if comptime!(segments.is_multiple_of(per_round)) {
        comptime!(segments / per_round).runtime()
    } else {
        // Not every plane has a segment in the last one.
        (comptime!(segments + per_round - 1) - plane) / per_round
    };

    let mut shared = Shared::<[f32]>::new_slice(comptime!(2 * n_sums));
    let mut totals = Array::<f32>::new(comptime!(tiles * 2));
    let mut loaded =
        nothing_loaded::<i32, W, F, H>(comptime!(in_flight * chunks * 2), comptime!(in_flight * 2));
    let first_lhs = load_pieces::<F, N>(&activations.rows, comptime!(prefetched(shape)), shape);
    let norm = if comptime!(shape.normed) {
        load_pieces::<F, N>(&activations.gamma, 1usize, shape)
    } else {
        Array::<Vector<F, N>>::new(1usize)
    };
    #[unroll]
    for i in 0..in_flight {
        load_segment::<F, W, H>(
            &mut loaded,
            weights,
            first_output,
            columns,
            plane + i * PLANES,
            i,
            shape,
        );
    }
    let lhs = stage_lhs::<F, N, W>(&activations.rows, &first_lhs, &norm, shape);
    let mut turn = 0usize;
    while first_output < columns {
        let added = addend::<F>(
            &output.residual,
            unit % m,
            first_output + unit % comptime!(outputs * m) / m,
            columns,
            shape.epilogue,
        );
        #[unroll]
        for i in 0..comptime!(tiles * 2) {
            totals[i] = f32::new(0.0);
        }
        let next_output = first_output + at_once;
        let mut round = 0usize;
        while round < rounds {
            let is_last = round + 1 == rounds;
            #[unroll]
            for i in 0..in_flight {
                let segment = round * per_round + plane + i * PLANES;
                // After the last segments of this turn come the first ones of the next.
                let next = select(is_last, plane + i * PLANES, segment + per_round);
                add_segment::<F, W, H>(
                    &mut totals,
                    &mut loaded,
                    &lhs,
                    weights,
                    segment,
                    next,
                    select(is_last, next_output, first_output),
                    columns,
                    i,
                    shape,
                );
            }
            round += 1;
        }

        let base = turn % 2 * n_sums;
        #[unroll]
        for tile in 0..tiles {
            #[unroll]
            for half in 0..2usize {
                let mut total = totals[tile * 2 + half];
                // Lanes whose blocks are of the same row.
                #[unroll]
                for step in 0..comptime!(chunks.ilog2() as usize) {
                    let mask = comptime!(((sides + LANES) << step) as u32);
                    total += plane_shuffle_xor(total, mask);
                }
                let side = tile * sides + unit % LANES % sides;
                if own_chunk(shape) == 0 && side < m {
                    let row = row_of(own_step(shape), half, shape);
                    shared[base + (plane * ROWS + row) * m + side] = total;
                }
            }
        }
        sync_cube();
        if unit < comptime!(outputs * m) {
            let mut sum = f32::new(0.0);
            let mut up = f32::new(0.0);
            #[unroll]
            for part in 0..PLANES {
                let at = base + comptime!(part * ROWS * m) + unit;
                sum += shared[at];
                if comptime!(shape.epilogue.gated) {
                    up += shared[at + comptime!(outputs * m)];
                }
            }
            if comptime!(shape.normed) {
                let rms = root_mean_square::<W>(&lhs, unit % m, activations.epsilon, shape);
                sum /= rms;
                up /= rms;
            }
            write::<F>(
                sum,
                up,
                added,
                unit % m,
                first_output + unit / m,
                output,
                shape.epilogue,
            );
        }
        first_output = next_output;
        turn += 1;
    }
}
