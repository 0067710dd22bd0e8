use cubecl::prelude::*;

use super::{
    super::{
        super::{
            super::{
                matrix_instruction::{PLANE, ROWS},
                warpgroup::{
                    ALIGNMENT, GROUP_UNITS, aligned, complete, multiply_registers, next_stage,
                    publish, shared_address, wait_for_copies,
                },
            },
            args::WeightsArg,
            sink::Sink,
        },
        copies::{Next, advance, output_of},
        kernel::write,
        shape::WIDTH,
    },
    copies::{copy_stage, place},
    shape::PackedShape,
    words::{Scales, of_halves, two_of_word},
};

/// What of a cube is a unit's own: its unit among those that have weight rows of their own, the first of its two
/// weight rows, its lane of four, and its group among those that share weight rows.
#[derive(CubeType, Clone, Copy)]
struct Own {
    unit: usize,
    row: usize,
    lane: usize,
    part: usize,
}

#[cube]
fn own(#[comptime] shape: PackedShape) -> Own {
    let group = UNIT_POS as usize / GROUP_UNITS;
    let unit = group / shape.split * GROUP_UNITS + UNIT_POS as usize % GROUP_UNITS;
    Own {
        unit,
        row: unit / PLANE * ROWS + unit % PLANE / 4,
        lane: unit % 4,
        part: group % shape.split,
    }
}

/// Loads the scales of a stage that begins at channel `first`.
#[cube]
fn load_scales<F: Float, W: Size, H: Size>(
    loaded: &mut Scales<F, H>,
    weights: &WeightsArg<i32, W, F, H>,
    first_output: usize,
    columns: usize,
    first: usize,
    channels: usize,
    own: &Own,
    #[comptime] shape: PackedShape,
) {
    let group = comptime!(shape.packing.group);
    let groups = channels / group;
    #[unroll]
    for half in 0..2usize {
        let row = own.row + comptime!(half * ROWS / 2);
        let (of_turn, gated) = output_of(row, shape.stages);
        let output = min(first_output + of_turn, columns - 1);
        let row = (output + gated * columns) * groups;
        #[unroll]
        for run in 0..comptime!(shape.runs_of_group()) {
            let of_stage = run * shape.split + own.part;
            let channel = first + of_stage * comptime!(shape.channels() / shape.runs);
            let at = row + min(channel / group, groups - 1);
            loaded.scales[comptime!(2 * run + half)] = weights.heads[at];
            if comptime!(shape.packing.asymmetric) {
                loaded.zeros[comptime!(2 * run + half)] = weights.zeros[at];
            }
        }
    }
}

/// Cubes: runs of weight rows, and segments of the channels. As the kernel of whole weights, but that products of
/// a tile are waited for before those of the next one begin.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn packed_kernel<O: Sink, F: Float, N: Size, W: Size, P: Size, H: Size>(
    rows: &Tensor<Vector<F, N>>,
    weights: &WeightsArg<i32, W, F, H>,
    output: &mut O::Output<F>,
    #[comptime] shape: PackedShape,
    #[define(F)] _dtype: ElemType,
) {
    let stages = comptime!(shape.stages);
    let m = rows.shape(0);
    let channels = rows.shape(1);
    let columns = weights.words.shape(0) / comptime!(stages.epilogue.per_output());
    let outputs = comptime!(stages.outputs);
    let first_output = CUBE_POS_X as usize * comptime!(stages.outputs * stages.turns);
    let last_output = min(
        first_output + comptime!(stages.outputs * stages.turns),
        columns,
    );
    let (first, end) = O::range(channels / WIDTH);
    let first = first * WIDTH;
    let end = end * WIDTH;

    let mut shared = Shared::<[Vector<F, N>]>::new_aligned_slice(shape.shared(), ALIGNMENT);
    let begin = shared_address(&shared[0..1]);
    let base = aligned(begin);
    let n_stages = comptime!(stages.stages as u32);
    let stage_bytes = comptime!(shape.stage_bytes() as u32);
    let ahead = comptime!(shape.ahead());
    let step = comptime!(shape.channels());

    let mut next = Next {
        output: first_output,
        at: first,
    };
    #[unroll]
    for i in 0..ahead {
        let to = base + comptime!(i as u32 * shape.stage_bytes() as u32);
        copy_stage::<F, N, W>(
            rows,
            &weights.words,
            &next,
            last_output,
            columns,
            end,
            to,
            shape,
        );
        advance(&mut next, first, end, step, outputs);
    }

    let own = own(shape);
    let n_scales = comptime!(2 * shape.runs_of_group());
    let mut loaded = Scales::<F, H> {
        scales: Array::new(n_scales),
        zeros: Array::new(n_scales),
    };
    load_scales::<F, W, H>(
        &mut loaded,
        weights,
        first_output,
        columns,
        first,
        channels,
        &own,
        shape,
    );
    let n_sums = comptime!(stages.sums());
    let mut sums = Array::<f32>::new(n_sums);
    let mut stage = 0u32;
    let mut turn_output = first_output;
    while turn_output < last_output {
        #[unroll]
        for i in 0..n_sums {
            sums[i] = f32::new(0.0);
        }
        let mut at_channel = first;
        while at_channel < end {
            wait_for_copies(comptime!(ahead - 1));
            publish();
            sync_cube();
            // Every plane has done with the step before: its stage is free.
            let free = select(stage == 0u32, comptime!(n_stages - 1), stage - 1u32);
            let to = base + free * stage_bytes;
            copy_stage::<F, N, W>(
                rows,
                &weights.words,
                &next,
                last_output,
                columns,
                end,
                to,
                shape,
            );
            advance(&mut next, first, end, step, outputs);
            let at = base + stage * stage_bytes;
            let vectors = ((at - begin) / 16u32) as usize;
            let lhs = at + comptime!(shape.weight_bytes() as u32);
            at_channel += step;
            // Scales of the next step are on their way during this one.
            let scales = of_halves::<F, P, H>(&loaded, shape);
            let over = at_channel >= end;
            load_scales::<F, W, H>(
                &mut loaded,
                weights,
                select(over, turn_output + outputs, turn_output),
                columns,
                select(over, first, at_channel),
                channels,
                &own,
                shape,
            );
            #[unroll]
            for run in 0..comptime!(shape.runs_of_group()) {
                let of_stage = run * shape.split + own.part;
                let part = own.lane + 4 * of_stage;
                let row_parts = comptime!(shape.parts());
                let upper = vectors + own.row * row_parts + place(own.row, part, shape);
                let lower = upper + 8 * row_parts;
                let upper = Vector::<u32, W>::reinterpret(shared[upper]);
                let lower = Vector::<u32, W>::reinterpret(shared[lower]);
                #[unroll]
                for tile in 0..comptime!(shape.tiles_per_run()) {
                    let mut words = Array::<u32>::new(16usize);
                    #[unroll]
                    for i in 0..4usize {
                        // Step `i` of the tile: which word, and which two of its pairs.
                        let of_run = comptime!(4 * tile + i);
                        let per_word = comptime!(4 / (shape.packing.bits / 2));
                        let word = comptime!(of_run / per_word);
                        #[unroll]
                        for half in 0..2usize {
                            let index = comptime!(of_run % per_word * 2 + half);
                            words[4 * i + 2 * half] = two_of_word::<F, P>(
                                upper.extract(word),
                                &scales,
                                comptime!(2 * run),
                                index,
                                shape.packing,
                                stages.dtype,
                            );
                            words[4 * i + 2 * half + 1] = two_of_word::<F, P>(
                                lower.extract(word),
                                &scales,
                                comptime!(2 * run + 1),
                                index,
                                shape.packing,
                                stages.dtype,
                            );
                        }
                    }
                    let of_stage = of_stage * comptime!(shape.tiles_per_run()) + tile;
                    // Those of the tile before, whose words may be overwritten then.
                    complete(&mut sums);
                    multiply_registers(
                        &mut sums,
                        &words,
                        lhs + of_stage as u32 * comptime!(shape.tile_bytes() as u32),
                        stages.lhs_rows,
                        stages.dtype,
                    );
                }
            }
            complete(&mut sums);
            stage = next_stage(stage, stages.stages);
        }
        if comptime!(shape.split > 1) {
            add_groups::<F, N>(&mut sums, &mut shared, &own, shape);
        }
        if own.part == 0 {
            write::<O, F>(&sums, output, own.unit, turn_output, m, stages);
        }
        turn_output += outputs;
    }
    wait_for_copies(0usize);
}

/// Adds up the sums of groups that share weight rows, in the first of them, through shared memory that no stage
/// needs any more. Every unit must reach it.
#[cube]
fn add_groups<F: Float, N: Size>(
    sums: &mut Array<f32>,
    shared: &mut Shared<[Vector<F, N>]>,
    own: &Own,
    #[comptime] shape: PackedShape,
) {
    let size!(W) = 4usize;
    let n = comptime!(shape.stages.sums() / 4);
    let units = comptime!(shape.stages.units());
    wait_for_copies(0usize);
    sync_cube();
    if own.part > 0 {
        #[unroll]
        for i in 0..n {
            let mut four = Vector::<f32, W>::new(sums[comptime!(4 * i)]);
            #[unroll]
            for j in 1..4usize {
                four.insert(j, sums[comptime!(4 * i + j)]);
            }
            let at = ((own.part - 1) * n + i) * units + own.unit;
            shared[at] = Vector::<F, N>::reinterpret(four);
        }
    }
    sync_cube();
    if own.part == 0 {
        #[unroll]
        for i in 0..n {
            #[unroll]
            for part in 0..comptime!(shape.split - 1) {
                let at = comptime!((part * n + i) * units) + own.unit;
                let four = Vector::<f32, W>::reinterpret(shared[at]);
                #[unroll]
                for j in 0..4usize {
                    sums[comptime!(4 * i + j)] = sums[comptime!(4 * i + j)] + four.extract(j);
                }
            }
        }
    }
}
