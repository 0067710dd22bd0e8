use cubecl::prelude::*;

use super::{
    super::super::warpgroup::{
        ALIGNMENT, GROUP_BYTES, GROUP_UNITS, aligned, complete, multiply, next_stage, publish,
        shared_address, two_stages_before, wait_for_copies, wait_for_products,
    },
    copies::{copies_of_unit, copy_step},
    outputs::write,
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
    let (first_row, first_column) = tile_of_cube(output.shape(0), output.shape(1), tiles);
    let shared = Shared::<[Vector<F, N>]>::new_aligned_slice(tiles.shared(), ALIGNMENT);
    let base = aligned(shared_address(&shared[0..1]));
    let copies = copies_of_unit::<F, N>(rows, weight, first_row, first_column, base, tiles);

    let ahead = comptime!(tiles.ahead());
    #[unroll]
    for step in 0..ahead {
        copy_step::<F, N>(rows, weight, &copies, step, comptime!(step as u32), tiles);
    }
    let n_sums = comptime!(tiles.sums());
    let mut sums = Array::<f32>::new(n_sums);
    #[unroll]
    for i in 0..n_sums {
        sums[i] = f32::new(0.0);
    }

    let group = UNIT_POS / comptime!(GROUP_UNITS as u32);
    let group_rows = base + group * comptime!(GROUP_BYTES as u32);
    let weight_rows = base + comptime!(tiles.row_tile() as u32);
    let stage_bytes = comptime!(tiles.stage_bytes() as u32);
    let mut stage = 0u32;
    for step in 0..rows.shape(1).div_ceil(comptime!(tiles.step())) {
        wait_for_copies(comptime!(ahead - 1));
        publish();
        sync_cube();
        // Every plane has waited for the products of two steps ago: their stage is free.
        let free = two_stages_before(stage, tiles.stages);
        copy_step::<F, N>(rows, weight, &copies, step + ahead, free, tiles);
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
    write::<F, N>(&sums, output, first_row, first_column, tiles);
}

/// The first row and the first column of a cube's tile: cubes of a band of rows go from column to column
/// together.
#[cube]
fn tile_of_cube(m: usize, n: usize, #[comptime] tiles: Tiles) -> (usize, usize) {
    let cube = CUBE_POS_X as usize;
    let per_band = n.div_ceil(tiles.columns) * tiles.band;
    let first = cube / per_band * tiles.band;
    let height = min(m.div_ceil(tiles.rows()) - first, tiles.band);
    let within = cube % per_band;
    (
        (first + within % height) * tiles.rows(),
        within / height * tiles.columns,
    )
}
