use cubecl::prelude::*;

use super::{
    super::{
        super::{
            matrix_instruction::{COLUMNS, PLANE, ROWS},
            warpgroup::{
                ALIGNMENT, GROUP_BYTES, GROUP_UNITS, PARTS, aligned, complete, multiply,
                next_stage, publish, shared_address, two_stages_before, wait_for_copies,
                wait_for_products,
            },
        },
        sink::Sink,
    },
    copies::{Next, advance, copy_stage},
    shape::{StageShape, WIDTH},
};

/// Cubes: runs of weight rows, and segments of the channels.
///
/// Stages go on from turn to turn: while a turn's outputs are written, copies for the next one are under
/// way.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn warpgroup_gemv_kernel<O: Sink, F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    output: &mut O::Output<F>,
    #[comptime] shape: StageShape,
    #[define(F)] _dtype: ElemType,
) {
    let m = rows.shape(0);
    let columns = weight.shape(0) / comptime!(shape.epilogue.per_output());
    let outputs = comptime!(shape.outputs);
    let first_output = CUBE_POS_X as usize * comptime!(shape.outputs * shape.turns);
    let last_output = min(
        first_output + comptime!(shape.outputs * shape.turns),
        columns,
    );
    let (first, end) = O::range(rows.shape(1) / WIDTH);

    let shared = Shared::<[Vector<F, N>]>::new_aligned_slice(shape.shared(), ALIGNMENT);
    let base = aligned(shared_address(&shared[0..1]));
    let stage_bytes = comptime!(shape.stage_bytes() as u32);
    let ahead = comptime!(shape.ahead());
    let step = comptime!(shape.depth * PARTS);

    let mut next = Next {
        output: first_output,
        at: first,
    };
    #[unroll]
    for i in 0..ahead {
        let to = base + comptime!(i as u32 * shape.stage_bytes() as u32);
        copy_stage::<F, N>(rows, weight, &next, last_output, end, to, shape);
        advance(&mut next, first, end, step, outputs);
    }

    let group = UNIT_POS / comptime!(GROUP_UNITS as u32);
    let weights = base + group * comptime!(GROUP_BYTES as u32);
    let lhs = base + comptime!(shape.weight_bytes() as u32);
    let n_sums = comptime!(shape.sums());
    let mut sums = Array::<f32>::new(n_sums);
    let mut stage = 0u32;
    let mut turn_output = first_output;
    while turn_output < last_output {
        #[unroll]
        for i in 0..n_sums {
            sums[i] = f32::new(0.0);
        }
        for _ in 0..(end - first).div_ceil(step) {
            wait_for_copies(comptime!(ahead - 1));
            publish();
            sync_cube();
            // Every plane has waited for the products of two steps ago: their stage is free.
            let free = two_stages_before(stage, shape.stages);
            let to = base + free * stage_bytes;
            copy_stage::<F, N>(rows, weight, &next, last_output, end, to, shape);
            advance(&mut next, first, end, step, outputs);
            #[unroll]
            for tile in 0..shape.depth {
                let at = stage * stage_bytes + comptime!((tile * shape.tile_bytes()) as u32);
                multiply(
                    &mut sums,
                    weights + at,
                    lhs + at,
                    shape.lhs_rows,
                    shape.dtype,
                );
            }
            wait_for_products(comptime!(shape.depth));
            stage = next_stage(stage, shape.stages);
        }
        complete(&mut sums);
        write::<O, F>(&sums, output, UNIT_POS as usize, turn_output, m, shape);
        turn_output += outputs;
    }
    wait_for_copies(0usize);
}

/// Takes the sums of a turn, those of unit `unit` of its groups.
///
/// Of a result of 64 weight rows, lane `4 g + t` of plane `p` holds LHS rows `2 t` and `2 t + 1` of every eight, of
/// weight rows `16 p + g` and `16 p + g + 8`.
#[cube]
pub(super) fn write<O: Sink, F: Float>(
    sums: &Array<f32>,
    output: &mut O::Output<F>,
    unit: usize,
    first_output: usize,
    m: usize,
    #[comptime] shape: StageShape,
) {
    let gated = comptime!(shape.epilogue.gated);
    let per_plane = comptime!(ROWS / shape.epilogue.per_output());
    let upper = unit / PLANE * per_plane + unit % PLANE / 4;
    #[unroll]
    for run in 0..comptime!(shape.lhs_rows / COLUMNS) {
        #[unroll]
        for c in 0..2usize {
            let row = comptime!(run * COLUMNS + c) + unit % 4 * 2;
            let first = comptime!(4 * run + c);
            if row < m {
                if comptime!(gated) {
                    if upper < comptime!(shape.outputs) {
                        let channel = first_output + upper;
                        let up = sums[comptime!(first + 2)];
                        O::put::<F>(output, sums[first], up, row, channel, m, shape.epilogue);
                    }
                } else {
                    #[unroll]
                    for half in 0..2usize {
                        let of_turn = upper + comptime!(half * ROWS / 2);
                        if of_turn < comptime!(shape.outputs) {
                            let sum = sums[comptime!(first + 2 * half)];
                            let up = f32::new(0.0);
                            let channel = first_output + of_turn;
                            O::put::<F>(output, sum, up, row, channel, m, shape.epilogue);
                        }
                    }
                }
            }
        }
    }
}
