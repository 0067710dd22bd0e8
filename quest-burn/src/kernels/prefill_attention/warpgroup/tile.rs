//! Queries, keys and values on their way into shared memory.

use cubecl::prelude::*;
use quest_burn_linear::kernels::warpgroup::{PARTS, ROW_BYTES, copy};

use super::{
    super::place::{Place, Run, pool_row},
    KEYS, WarpgroupShape,
};

/// Which part of which rows a unit copies: that part of one row and of every `lines`-th on.
#[derive(CubeType, Clone, Copy)]
pub(super) struct UnitCopies {
    line: usize,
    part: usize,
}

#[cube]
pub(super) fn copies_of_unit(#[comptime] shape: WarpgroupShape) -> UnitCopies {
    let unit = UNIT_POS as usize;
    UnitCopies {
        line: unit / shape.parts(),
        part: unit % shape.parts(),
    }
}

/// Where the part of a unit's first row goes, of a matrix of so many rows: rows of 64 channels in blocks
/// one after the other, the parts of a row permuted by the row.
#[cube]
fn place_of_part(copies: &UnitCopies, #[comptime] rows: usize) -> u32 {
    let block = copies.part / PARTS * comptime!(rows * ROW_BYTES);
    let part = (copies.part % PARTS) ^ (copies.line % PARTS);
    (block + copies.line * ROW_BYTES + part * 16) as u32
}

/// Begins to copy the queries of a cube; past the last token of the step they are those of the last.
#[cube]
pub(super) fn copy_queries<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    to: u32,
    copies: &UnitCopies,
    run: &Run,
    #[comptime] shape: WarpgroupShape,
) {
    let tokens = comptime!(shape.tokens());
    let last = query.shape(2) - 1;
    let to = to + place_of_part(copies, tokens);
    #[unroll]
    for i in 0..comptime!(tokens / shape.lines()) {
        let lines = comptime!(i * shape.lines());
        let token = min(run.first + copies.line + lines, last);
        let from = (run.first_row + token) * shape.parts() + copies.part;
        copy(
            &query[from..from + 1],
            to + comptime!((lines * ROW_BYTES) as u32),
            16u32,
        );
    }
}

/// Begins to copy the tile of keys and values from `first` on. Rows that no query sees become zeros: what a
/// pool holds there may be no number, and a weight of 0 does not make it one.
#[cube]
pub(super) fn copy_tile<F: Float, N: Size>(
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    first: usize,
    to: u32,
    copies: &UnitCopies,
    place: &Place,
    #[comptime] shape: WarpgroupShape,
) {
    let to = to + place_of_part(copies, KEYS);
    #[unroll]
    for i in 0..comptime!(KEYS / shape.lines()) {
        let lines = comptime!(i * shape.lines());
        let key = first + copies.line + lines;
        let seen = key < place.end;
        let key = select(seen, key, 0usize);
        let bytes = select(seen, 16u32, 0u32);
        let row = pool_row(page_table, key, place, shape.page_size);
        let from = row * shape.parts() + copies.part;
        let to = to + comptime!((lines * ROW_BYTES) as u32);
        copy(&keys[from..from + 1], to, bytes);
        copy(
            &values[from..from + 1],
            to + comptime!(shape.bytes(KEYS) as u32),
            bytes,
        );
    }
}
