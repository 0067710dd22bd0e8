use cubecl::prelude::*;

use super::{
    super::{
        super::{
            matrix_instruction::{PLANE, ROWS},
            warpgroup::{
                ALIGNMENT, GROUP_BYTES, GROUP_UNITS, aligned, complete, end_copies, multiply,
                next_stage, publish, shared_address, two_stages_before, wait_for_copies,
                wait_for_products,
            },
        },
        bands::tile_of_cube,
        staged::{
            Copies, Staging, copies_of_unit, copy_rows, copy_weight, has_step, part_of_step, write,
        },
    },
    tiles::Tiles,
};

/// Cubes: tiles of the output.
///
/// In a step a cube multiplies 64 channels of a tile of rows by those of a tile of weight rows. The
/// products of the step before may still be under way, and copies for the next steps are.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn warpgroup_matmul<F: Float, N: Size>(
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
        comptime!([tiles.rows(), tiles.columns]),
        tiles.band,
    );
    let shared = Shared::<[Vector<F, N>]>::new_aligned_slice(tiles.shared(), ALIGNMENT);
    let base = aligned(shared_address(&shared[0..1]));
    let copies = copies_of_unit::<F, N>(rows, weight, first_row, first_column, base, staging);

    let ahead = comptime!(tiles.ahead());
    #[unroll]
    for step in 0..ahead {
        copy_step::<F, N>(rows, weight, &copies, step, comptime!(step as u32), staging);
    }
    let n_sums = comptime!(tiles.sums());
    let mut sums = Array::<f32>::new(n_sums);
    #[unroll]
    for i in 0..n_sums {
        sums[i] = f32::new(0.0);
    }

    let group = UNIT_POS / comptime!(GROUP_UNITS as u32);
    let group_rows = base + group * comptime!(GROUP_BYTES as u32);
    let weight_rows = base + comptime!(staging.row_tile() as u32);
    let stage_bytes = comptime!(staging.stage_bytes() as u32);
    let mut stage = 0u32;
    for step in 0..rows.shape(1).div_ceil(comptime!(staging.step())) {
        wait_for_copies(comptime!(ahead - 1));
        publish();
        sync_cube();
        // Every plane has waited for the products of two steps ago: their stage is free.
        let free = two_stages_before(stage, tiles.stages);
        copy_step::<F, N>(rows, weight, &copies, step + ahead, free, staging);
        let at = stage * stage_bytes;
        multiply(
            &mut sums,
            group_rows + at,
            weight_rows + at,
            tiles.columns,
            tiles.dtype,
        );
        wait_for_products(1usize);
        stage = next_stage(stage, tiles.stages);
    }
    complete(&mut sums);
    let row = first_row + UNIT_POS as usize / PLANE * ROWS;
    write::<F, N>(&sums, output, row, first_column, 0usize, tiles.columns);
}

/// Begins to copy the channels of a step to a stage, as a group of copies; past the last step it is empty.
#[cube]
fn copy_step<F: Float, N: Size>(
    rows: &Tensor<Vector<F, N>>,
    weight: &Tensor<Vector<F, N>>,
    copies: &Copies,
    step: usize,
    stage: u32,
    #[comptime] staging: Staging,
) {
    if has_step(copies, step, staging) {
        let part = part_of_step(copies, step, staging);
        copy_rows::<F, N>(rows, copies, &part, stage, staging);
        copy_weight::<F, N>(weight, copies, &part, stage, staging);
    }
    end_copies();
}
