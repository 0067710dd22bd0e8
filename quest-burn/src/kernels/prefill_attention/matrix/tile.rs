//! A tile of keys and values, from their pages through registers into shared memory.

use cubecl::prelude::*;

use super::{
    super::place::{Place, pool_row},
    PrefillShape,
};

/// Keys and values in shared memory, each row `stride` vectors from the one before.
#[derive(CubeType)]
pub(super) struct Tile<F: Float, N: Size> {
    pub keys: Shared<[Vector<F, N>]>,
    pub values: Shared<[Vector<F, N>]>,
}

#[cube]
pub(super) fn empty_tile<F: Float, N: Size>(#[comptime] shape: PrefillShape) -> Tile<F, N> {
    let n = comptime!(shape.keys * shape.stride());
    Tile::<F, N> {
        keys: Shared::new_slice(n),
        values: Shared::new_slice(n),
    }
}

/// What a unit has loaded of the next tile.
#[derive(CubeType)]
pub(super) struct Loaded<F: Float, N: Size> {
    keys: Array<Vector<F, N>>,
    values: Array<Vector<F, N>>,
}

#[cube]
pub(super) fn nothing_loaded<F: Float, N: Size>(#[comptime] shape: PrefillShape) -> Loaded<F, N> {
    Loaded::<F, N> {
        keys: Array::new(shape.loads()),
        values: Array::new(shape.loads()),
    }
}

/// Loads the tile of keys from `first` on. Rows that no query sees become zeros: what a pool holds
/// there may be no number, and a weight of 0 does not make it one.
#[cube]
pub(super) fn load<F: Float, N: Size>(
    loaded: &mut Loaded<F, N>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    first: usize,
    place: &Place,
    #[comptime] shape: PrefillShape,
) {
    let row = comptime!(shape.row());
    let page_size = comptime!(shape.page_size);
    let zero = Vector::<F, N>::new(F::new(0.0));
    let loads = comptime!(shape.loads());
    #[unroll]
    for i in 0..loads {
        let at = UNIT_POS as usize + comptime!(i * shape.units());
        let key = first + at / row;
        let seen = key < place.end;
        let key = select(seen, key, 0usize);
        let from = pool_row(page_table, key, place, page_size) * row + at % row;
        loaded.keys[i] = select(seen, keys[from], zero);
        loaded.values[i] = select(seen, values[from], zero);
    }
}

/// Puts what was loaded into shared memory.
#[cube]
pub(super) fn stage<F: Float, N: Size>(
    tile: &mut Tile<F, N>,
    loaded: &Loaded<F, N>,
    #[comptime] shape: PrefillShape,
) {
    let row = comptime!(shape.row());
    let loads = comptime!(shape.loads());
    #[unroll]
    for i in 0..loads {
        let at = UNIT_POS as usize + comptime!(i * shape.units());
        if at < comptime!(shape.keys * row) {
            let to = at / row * shape.stride() + at % row;
            tile.keys[to] = loaded.keys[i];
            tile.values[to] = loaded.values[i];
        }
    }
}
