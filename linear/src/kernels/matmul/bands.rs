//! Which tile of the output a cube has.

use cubecl::prelude::*;

/// The first row and the first column of a cube's tile of so many `[rows, columns]`. Tiles of a band of rows go from
/// column to column together, while a tile of weight rows is in the L2 cache.
#[cube]
pub(super) fn tile_of_cube(
    m: usize,
    n: usize,
    #[comptime] tile: [usize; 2],
    #[comptime] band: usize,
) -> (usize, usize) {
    let [rows, columns] = comptime!(tile);
    let cube = CUBE_POS_X as usize;
    let per_band = n.div_ceil(columns) * band;
    let first = cube / per_band * band;
    let height = min(m.div_ceil(rows) - first, band);
    let within = cube % per_band;
    ((first + within % height) * rows, within / height * columns)
}
