//! The keys and values of the 16 tokens that a plane attends to, in the registers of its lanes.

use cubecl::prelude::*;

use super::{
    super::{
        super::matrix_instruction::COLUMNS,
        split::{Place, Slots},
    },
    MatrixShape,
};
use crate::row_load::{RowLoad, RowsArg};

/// Of each 8 tokens lane `4 g + t` holds the key of token `g`, every fourth vector from `t` on, and
/// the values of tokens `2 t` and `2 t + 1`, every eighth vector from `g` on. Of these two tokens it holds the
/// scales of keys as well, as it does their scores.
#[derive(CubeType)]
pub(super) struct Tile<E: Numeric, W: Size> {
    pub keys: Array<Vector<E, W>>,
    pub values: Array<Vector<E, W>>,
    pub key_scales: Array<f32>,
    pub value_scales: Array<f32>,
}

#[cube]
pub(super) fn empty_tile<E: Numeric, W: Size>(#[comptime] shape: MatrixShape) -> Tile<E, W> {
    Tile::<E, W> {
        keys: Array::new(comptime!(2 * shape.key_vectors())),
        values: Array::new(comptime!(4 * shape.value_vectors())),
        key_scales: Array::new(4usize),
        value_scales: Array::new(4usize),
    }
}

/// Where 8 tokens in a row lie.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Run {
    /// Slot of their page, and the first one within it.
    slot: usize,
    within: usize,
    /// How many of them are tokens of the sequence, and how many of those there are from the first one on.
    pub used: usize,
    pub left: usize,
}

/// Where the 8 tokens from `token` on lie.
#[cube]
pub(super) fn run(
    slots: &Slots,
    token: usize,
    n_slots: usize,
    #[comptime] shape: MatrixShape,
) -> Run {
    let slot = min(token / shape.page_size, n_slots - 1);
    let within = token % shape.page_size;
    let is_in = token < n_slots * shape.page_size;
    let of_page = select(is_in, slots.tokens[slot] as usize, 0usize);
    let left = of_page - min(within, of_page);
    Run {
        slot,
        within,
        used: min(left, COLUMNS),
        left,
    }
}

/// The row of a token of a run. In place of one that is not of the sequence comes the first one of the
/// page, as rows past the length are undefined.
#[cube]
fn row(
    run: &Run,
    slots: &Slots,
    token: usize,
    place: &Place,
    #[comptime] shape: MatrixShape,
) -> usize {
    let page = slots.pages[run.slot] as usize * place.n_kv_heads + place.kv_head;
    let within = select(token < run.used, run.within + token, 0usize);
    page * shape.page_size + within
}

/// Loads the keys of the 16 tokens from `first` on.
#[cube]
pub(super) fn load_keys<L: RowLoad, E: Numeric, W: Size>(
    tile: &mut Tile<E, W>,
    keys: &RowsArg<E, W>,
    slots: &Slots,
    first: usize,
    n_slots: usize,
    place: &Place,
    #[comptime] shape: MatrixShape,
) {
    let vectors = comptime!(shape.key_vectors());
    let lane = UNIT_POS_PLANE as usize;
    #[unroll]
    for half in 0..2usize {
        let run = run(slots, first + half * COLUMNS, n_slots, shape);
        let from = row(&run, slots, lane / 4, place, shape) * shape.row() + lane % 4;
        #[unroll]
        for v in 0..vectors {
            tile.keys[half * vectors + v] = keys.rows[from + v * 4];
        }
        if comptime!(L::SCALED) {
            #[unroll]
            for i in 0..2usize {
                let scored = row(&run, slots, lane % 4 * 2 + i, place, shape);
                tile.key_scales[2 * half + i] = L::scale::<E, W>(keys, scored);
            }
        }
    }
}

/// Loads the values of the 16 tokens from `first` on.
#[cube]
pub(super) fn load_values<L: RowLoad, E: Numeric, W: Size>(
    tile: &mut Tile<E, W>,
    values: &RowsArg<E, W>,
    slots: &Slots,
    first: usize,
    n_slots: usize,
    place: &Place,
    #[comptime] shape: MatrixShape,
) {
    let vectors = comptime!(shape.value_vectors());
    let lane = UNIT_POS_PLANE as usize;
    #[unroll]
    for half in 0..2usize {
        let run = run(slots, first + half * COLUMNS, n_slots, shape);
        #[unroll]
        for i in 0..2usize {
            let of_token = row(&run, slots, lane % 4 * 2 + i, place, shape);
            let from = of_token * shape.row() + lane / 4;
            #[unroll]
            for v in 0..vectors {
                tile.values[(2 * half + i) * vectors + v] = values.rows[from + v * COLUMNS];
            }
            if comptime!(L::SCALED) {
                tile.value_scales[2 * half + i] = L::scale::<E, W>(values, of_token);
            }
        }
    }
}
