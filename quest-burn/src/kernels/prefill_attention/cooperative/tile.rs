//! Keys and values of a tile, from their pages into shared memory.

use cubecl::prelude::*;

use super::{
    super::place::{Place, pool_row},
    shape::CooperativeShape,
};

/// Keys and values in shared memory.
#[derive(CubeType)]
pub(super) struct Tile<W: Numeric, N: Size> {
    pub keys: Shared<[Vector<W, N>]>,
    pub values: Shared<[Vector<W, N>]>,
}

#[cube]
pub(super) fn empty_tile<W: Numeric, N: Size>(#[comptime] shape: CooperativeShape) -> Tile<W, N> {
    let n = comptime!(shape.keys * shape.stride() / shape.part());
    Tile::<W, N> {
        keys: Shared::new_slice(n),
        values: Shared::new_slice(n),
    }
}

/// What a unit has loaded of the next tile.
#[derive(CubeType)]
pub(super) struct Loaded<W: Numeric, N: Size> {
    keys: Array<Vector<W, N>>,
    values: Array<Vector<W, N>>,
}

#[cube]
pub(super) fn nothing_loaded<W: Numeric, N: Size>(
    #[comptime] shape: CooperativeShape,
) -> Loaded<W, N> {
    Loaded::<W, N> {
        keys: Array::new(shape.loads()),
        values: Array::new(shape.loads()),
    }
}

/// Loads the tile of keys from `first` on. Rows that no query sees become zeros: what a pool holds
/// there may be no number, and a weight of 0 does not make it one.
#[cube]
pub(super) fn load<W: Numeric, N: Size>(
    loaded: &mut Loaded<W, N>,
    keys: &Tensor<Vector<W, N>>,
    values: &Tensor<Vector<W, N>>,
    page_table: &Tensor<i32>,
    first: usize,
    place: &Place,
    #[comptime] shape: CooperativeShape,
) {
    let row = comptime!(shape.parts());
    let zero = Vector::<W, N>::cast_from(0.0f32);
    let loads = comptime!(shape.loads());
    #[unroll]
    for i in 0..loads {
        let at = UNIT_POS as usize + comptime!(i * shape.units());
        let key = first + at / row;
        let seen = key < place.end;
        let key = select(seen, key, 0usize);
        let from = pool_row(page_table, key, place, shape.page_size) * row + at % row;
        loaded.keys[i] = select(seen, keys[from], zero);
        loaded.values[i] = select(seen, values[from], zero);
    }
}

/// Puts what was loaded into shared memory.
#[cube]
pub(super) fn stage<W: Numeric, N: Size>(
    tile: &mut Tile<W, N>,
    loaded: &Loaded<W, N>,
    #[comptime] shape: CooperativeShape,
) {
    let row = comptime!(shape.parts());
    let stride = comptime!(shape.stride() / shape.part());
    let loads = comptime!(shape.loads());
    #[unroll]
    for i in 0..loads {
        let at = UNIT_POS as usize + comptime!(i * shape.units());
        if at < comptime!(shape.keys * row) {
            let to = at / row * stride + at % row;
            tile.keys[to] = loaded.keys[i];
            tile.values[to] = loaded.values[i];
        }
    }
}

/// Puts query tokens from `first` on where keys will be; those past the last one are others.
#[cube]
pub(super) fn stage_queries<W: Numeric, N: Size>(
    tile: &mut Tile<W, N>,
    query: &Tensor<Vector<W, N>>,
    first_row: usize,
    first: usize,
    #[comptime] shape: CooperativeShape,
) {
    let row = comptime!(shape.parts());
    let stride = comptime!(shape.stride() / shape.part());
    let last = query.shape(2) - 1;
    let mut i = UNIT_POS as usize;
    while i < comptime!(shape.keys * row) {
        let token = min(first + i / row, last);
        tile.keys[i / row * stride + i % row] = query[(first_row + token) * row + i % row];
        i += comptime!(shape.units());
    }
}
