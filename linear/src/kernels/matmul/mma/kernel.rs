use cubecl::prelude::*;

use super::{
    super::{
        super::{
            matrix_instruction::{PLANE, ROWS},
            ptx::{end_copies, shared_address, wait_for_copies},
            warpgroup::{next_stage, stage_before},
        },
        bands::tile_of_cube,
        staged::{
            WIDTH, copies_of_unit, copy_rows, copy_weight, part_of_step, place_of_part, write,
        },
    },
    instructions::{load, multiply},
    tiles::Tiles,
};

/// Shared memory begins at a multiple of so many bytes, so that copies and loads take whole rows of banks.
const ALIGNMENT: usize = 128;

/// Cubes: tiles of the output.
///
/// In a step a cube multiplies some channels of a tile of rows by those of a tile of weight rows, 16 of them at a time.
/// While the tensor cores have 16, a plane loads the next ones into registers, across the end of a step as well. The one
/// barrier of a step is there: behind it the next tile is in shared memory, and the tile of this step in registers, so
/// that its place is free for the copies that the next step begins.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn mma_matmul<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    output: &mut Tensor<Vector<F, N>>,
    #[comptime] tiles: Tiles,
    #[define(F)] _dtype: ElemType,
) {
    let staging = comptime!(tiles.staging());
    let (first_row, first_column) = tile_of_cube(
        output.shape(0),
        output.shape(1),
        comptime!(tiles.tile()),
        tiles.band,
    );
    let shared = Shared::<[Vector<F, N>]>::new_aligned_slice(
        comptime!(staging.bytes() / (2 * WIDTH)),
        ALIGNMENT,
    );
    let base = shared_address(&shared[0..1]);
    let copies = copies_of_unit::<F, N>(rows, weight, first_row, first_column, base, staging);

    let ahead = comptime!(tiles.ahead());
    #[unroll]
    for step in 0..ahead {
        let part = part_of_step(&copies, step, staging);
        let stage = comptime!(step as u32);
        copy_rows::<F, N>(rows, &copies, &part, stage, staging);
        copy_weight::<F, N>(weight, &copies, &part, stage, staging);
        end_copies();
    }
    let n_sums = comptime!(tiles.sums());
    let mut sums = Array::<f32>::new(n_sums);
    #[unroll]
    for i in 0..n_sums {
        sums[i] = f32::new(0.0);
    }

    let (row, column) = place_of_plane(tiles);
    let (row_place, weight_place) = places_of_lane(row, column, tiles);
    let stage_bytes = comptime!(staging.stage_bytes() as u32);
    let slices = comptime!(tiles.slices());
    let mut even = Array::<u32>::new(comptime!(tiles.words()));
    let mut odd = Array::<u32>::new(comptime!(tiles.words()));
    wait_for_copies(comptime!(ahead - 1));
    sync_cube();
    load(&mut even, base + row_place, base + weight_place, tiles);
    let mut stage = 0u32;
    for step in 0..rows.shape(1).div_ceil(comptime!(staging.step())) {
        // Without a branch, so that instructions can move: past the last step nothing is read.
        let part = part_of_step(&copies, step + ahead, staging);
        let free = stage_before(stage, tiles.stages);
        #[unroll]
        for slice in 0..slices {
            if comptime!(slice + 1 == slices) {
                end_copies();
                wait_for_copies(comptime!(ahead - 1));
                sync_cube();
                stage = next_stage(stage, tiles.stages);
            }
            let at = base + stage * stage_bytes;
            let channels = comptime!(((slice + 1) % slices * 32) as u32);
            let row_at = at + (row_place ^ channels);
            let weight_at = at + (weight_place ^ channels);
            if comptime!(slice % 2 == 0) {
                load(&mut odd, row_at, weight_at, tiles);
            } else {
                load(&mut even, row_at, weight_at, tiles);
            }
            if comptime!(slice == 0) {
                copy_rows::<F, N>(rows, &copies, &part, free, staging);
            }
            if comptime!(slice % 2 == 0) {
                multiply(&mut sums, &even, tiles);
            } else {
                multiply(&mut sums, &odd, tiles);
            }
            if comptime!(slice + 2 == slices) {
                copy_weight::<F, N>(weight, &copies, &part, free, staging);
            }
        }
    }
    // None may be under way when the cube ends.
    wait_for_copies(0usize);
    #[unroll]
    for i in 0..comptime!(tiles.loads()[0]) {
        write::<F, N>(
            &sums,
            output,
            first_row + row + comptime!(i * ROWS),
            first_column + column,
            comptime!(i * tiles.sums_of_rows()),
            comptime!(tiles.plane[1]),
        );
    }
}

/// The first row and the first weight row of this plane, within the tile.
#[cube]
fn place_of_plane(#[comptime] tiles: Tiles) -> (usize, usize) {
    let plane = UNIT_POS as usize / PLANE;
    let along_columns = comptime!(tiles.planes[1]);
    (
        plane / along_columns * comptime!(tiles.plane[0]),
        plane % along_columns * comptime!(tiles.plane[1]),
    )
}

/// Where a lane's first loads lie in a stage: of 16 rows and of 16 weight rows, eight lanes for each matrix of eight
/// rows and eight channels. The next 16 channels differ in bits of the place alone, those of the part.
#[cube]
fn places_of_lane(row: usize, column: usize, #[comptime] tiles: Tiles) -> (u32, u32) {
    let lane = UNIT_POS as usize % PLANE;
    let row = place_of_part(row + lane % 16, lane / 16, tiles.parts);
    let weight_row = column + lane / 16 * 8 + lane % 8;
    let weight = place_of_part(weight_row, lane / 8 % 2, tiles.parts);
    let weight = weight + comptime!(tiles.staging().row_tile());
    (row as u32, weight as u32)
}
