//! Products of LHS rows with runs of 16 weight rows.
//!
//! Lane `4 g + t` holds channels of weight rows `g` and `g + 8` as the instruction's first operand, and the
//! same channels of LHS row `g` as its second one. It sums up channels in any order, so that a lane's
//! load of eight neighbours serves two of them.

use cubecl::{cmma::MmaDefinition, prelude::*};

use super::{
    super::super::matrix_instruction::{COLUMNS, DEPTH, PLANE, ROWS},
    lhs::{Lhs, empty_lhs, load_lhs, store_lhs},
    shape::{BatchShape, LANES, STEP, SUMS, WIDTH},
};

/// Loads a step of this lane's two weight rows into a slot.
#[cube]
fn load<F: Float, N: Size>(
    loaded: &mut Array<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    upper: usize,
    lower: usize,
    first: usize,
    end: usize,
    #[comptime] slot: usize,
) {
    // Past the end LHS rows are zeros.
    let first = min(first, end - STEP) + UNIT_POS_PLANE as usize % LANES;
    #[unroll]
    for part in 0..2usize {
        let column = first + comptime!(part * LANES);
        let index = comptime!(4 * slot + 2 * part);
        loaded[index] = weight[upper + column];
        loaded[index + 1] = weight[lower + column];
    }
}

/// Four registers of weights: the `half`-th two words of either row.
#[cube]
fn weight_registers<F: Float, W: Size, P: Size>(
    upper: Vector<i32, W>,
    lower: Vector<i32, W>,
    #[comptime] half: usize,
) -> Array<Vector<F, P>> {
    let mut registers = Array::<Vector<F, P>>::new(4usize);
    #[unroll]
    for i in 0..2usize {
        let word = comptime!(2 * half + i);
        registers[2 * i] = Vector::reinterpret(upper.extract(word));
        registers[2 * i + 1] = Vector::reinterpret(lower.extract(word));
    }
    registers
}

/// Two registers of LHS rows: the `half`-th two words of a vector.
#[cube]
fn lhs_registers<F: Float, W: Size, P: Size>(
    vector: Vector<i32, W>,
    #[comptime] half: usize,
) -> Array<Vector<F, P>> {
    let mut registers = Array::<Vector<F, P>>::new(2usize);
    #[unroll]
    for i in 0..2usize {
        registers[i] = Vector::reinterpret(vector.extract(comptime!(2 * half + i)));
    }
    registers
}

/// Adds a step's products: of each run of LHS rows two registers, of weight rows `g` and `g + 8`.
#[cube]
fn add_step<F: Float, N: Size, W: Size, P: Size>(
    totals: &mut Array<Vector<f32, P>>,
    loaded: &Array<Vector<F, N>>,
    lhs: &Lhs<F, N>,
    first: usize,
    #[comptime] slot: usize,
    #[comptime] groups: usize,
) {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    #[unroll]
    for part in 0..2usize {
        let index = comptime!(4 * slot + 2 * part);
        let upper = Vector::<i32, W>::reinterpret(loaded[index]);
        let lower = Vector::<i32, W>::reinterpret(loaded[index + 1]);
        #[unroll]
        for group in 0..groups {
            let at = first + comptime!((part * groups + group) * PLANE) + UNIT_POS_PLANE as usize;
            let vector = Vector::<i32, W>::reinterpret(lhs.vectors[at]);
            let mut sum = Array::<Vector<f32, P>>::new(2usize);
            #[unroll]
            for i in 0..2usize {
                sum[i] = totals[2 * group + i];
            }
            #[unroll]
            for half in 0..2usize {
                let weights = weight_registers::<F, W, P>(upper, lower, half);
                let vector = lhs_registers::<F, W, P>(vector, half);
                sum = definition.execute(&weights, &vector, &sum);
            }
            #[unroll]
            for i in 0..2usize {
                totals[2 * group + i] = sum[i];
            }
        }
    }
}

/// Sums of every plane of the products of vectors `first` to `end`, which are whole steps, with the
/// weight rows of outputs from `first_output` on: `sums[(plane * lhs_rows + lhs_row) * SUMS + row]`.
/// Every unit must reach it; the sums may be read after the next barrier.
#[cube]
pub(super) fn add_products<F: Float, N: Size, W: Size, P: Size>(
    sums: &mut Shared<[f32]>,
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    first_output: usize,
    columns: usize,
    first: usize,
    end: usize,
    #[comptime] shape: BatchShape,
) {
    let BatchShape {
        groups,
        split,
        steps,
        in_flight,
        ..
    } = comptime!(shape);
    let vectors = weight.shape(1) / WIDTH;
    let lane = UNIT_POS_PLANE as usize;
    let plane = UNIT_POS as usize / PLANE;
    let part = plane % split;
    let tile = plane / split;
    let output_tiles = comptime!(shape.output_tiles());
    let row = first_output + tile % output_tiles * ROWS + lane / LANES;
    let gated = tile / output_tiles * columns;
    // A row past the end reads the last one's weights; its sum is not written.
    let upper = (min(row, columns - 1) + gated) * vectors;
    let lower = (min(row + comptime!(ROWS / 2), columns - 1) + gated) * vectors;

    let mut totals = Array::<Vector<f32, P>>::new(comptime!(2 * groups));
    #[unroll]
    for i in 0..comptime!(2 * groups) {
        totals[i] = Vector::new(0.0f32);
    }
    // The first weights are on their way while LHS rows are staged.
    let mut loaded = Array::<Vector<F, N>>::new(comptime!(4 * in_flight));
    #[unroll]
    for slot in 0..in_flight {
        let at = first + (slot * split + part) * STEP;
        load::<F, N>(&mut loaded, weight, upper, lower, at, end, slot);
    }
    let block = comptime!(shape.block());
    let block_vectors = comptime!(shape.lhs_vectors());
    let step_vectors = comptime!(STEP * shape.lhs_rows());
    let mut lhs = empty_lhs::<F, N>(shape);
    let mut staged = Array::<Vector<F, N>>::new(comptime!(shape.loads()));
    load_lhs::<F, N>(&mut staged, rows, first, end, shape);
    store_lhs::<F, N>(&mut lhs, &staged, 0usize, first, end, shape);
    load_lhs::<F, N>(&mut staged, rows, first + block, end, shape);
    sync_cube();

    let round = comptime!(shape.round());
    // Where the plane's first step of a round, and the block that it is in, begin.
    let mut round_first = first;
    let mut block_first = first;
    let mut buffer = 0usize;
    while round_first < end {
        #[unroll]
        for step in 0..round {
            let of_block = comptime!(step % steps * split);
            let at = buffer * block_vectors + (of_block + part) * step_vectors;
            let slot = comptime!(step % in_flight);
            add_step::<F, N, W, P>(&mut totals, &loaded, &lhs, at, slot, groups);
            let next = comptime!((step + in_flight) * split) + part;
            let next = round_first + next * STEP;
            load::<F, N>(&mut loaded, weight, upper, lower, next, end, slot);
            if comptime!((step + 1) % steps == 0) {
                buffer = 1 - buffer;
                block_first += block;
                store_lhs::<F, N>(&mut lhs, &staged, buffer, block_first, end, shape);
                load_lhs::<F, N>(&mut staged, rows, block_first + block, end, shape);
                sync_cube();
            }
        }
        round_first += comptime!(round * split * STEP);
    }

    #[unroll]
    for group in 0..groups {
        #[unroll]
        for half in 0..2usize {
            let pair = totals[2 * group + half];
            #[unroll]
            for c in 0..2usize {
                let lhs_row = comptime!(group * COLUMNS + c) + 2 * (lane % LANES);
                let row = lane / LANES + comptime!(half * ROWS / 2);
                let at = (plane * shape.lhs_rows() + lhs_row) * SUMS + row;
                sums[at] = pair.extract(c);
            }
        }
    }
}

/// The sum of one weight row of a run and one LHS row over the planes that share the run.
#[cube]
pub(super) fn total(
    sums: &mut Shared<[f32]>,
    tile: usize,
    lhs_row: usize,
    row: usize,
    #[comptime] shape: BatchShape,
) -> f32 {
    let split = comptime!(shape.split);
    let mut total = f32::new(0.0);
    #[unroll]
    for part in 0..split {
        let plane = tile * split + part;
        total += sums[(plane * shape.lhs_rows() + lhs_row) * SUMS + row];
    }
    total
}
