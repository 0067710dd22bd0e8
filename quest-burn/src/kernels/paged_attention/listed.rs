//! Attention over listed pages, or over all of them.

use cubecl::prelude::*;

use super::{
    softmax::{Softmax, attend, softmax},
    split::{Place, Shape, pages_per_split, place, publish, publish_nothing, slots, stage_page},
};

/// The pages that the query heads of a cube read.
#[derive(CubeType, Clone, Copy)]
struct Listing {
    /// Pages to read.
    n_pages: usize,
    /// Where they are listed; without a list, page `i` is the `i`-th.
    listed: bool,
    list: usize,
}

/// How the pages are split.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Splitting {
    pub min_pages: u32,
    pub max_splits: u32,
}

#[cube]
fn pages_of(place: &Place, #[comptime] page_size: usize) -> usize {
    min((place.length + page_size - 1) / page_size, place.max_pages)
}

/// The row of `pages`, `[batch, heads, k]`, that the query heads of a cube read.
#[cube]
fn list_row(place: &Place, pages: &Tensor<i32>) -> usize {
    let list_heads = pages.shape(1);
    place.sequence * list_heads + place.query_head * list_heads / place.n_heads
}

#[cube]
fn listing(
    place: &Place,
    pages: &Tensor<i32>,
    #[comptime] listed: bool,
    #[comptime] page_size: usize,
) -> Listing {
    let n_pages = pages_of(place, page_size);
    if comptime!(listed) {
        let k = pages.shape(2);
        Listing {
            n_pages: min(n_pages, k),
            listed: true.runtime(),
            list: list_row(place, pages) * k,
        }
    } else {
        Listing {
            n_pages,
            listed: false.runtime(),
            list: 0usize.runtime(),
        }
    }
}

/// Attends to the pages from `first` to `end` of a listing.
#[cube]
fn attend_listed<F: Float, N: Size>(
    state: &mut Softmax<N>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    pages: &Tensor<i32>,
    page_table: &Tensor<i32>,
    listing: &Listing,
    first: usize,
    end: usize,
    place: &Place,
    #[comptime] shape: Shape,
) {
    let mut slots = slots(shape.units);
    let mut chunk = first;
    while chunk < end {
        let n_slots = min(end - chunk, shape.units);
        let slot = UNIT_POS as usize;
        if slot < n_slots {
            let mut page = chunk + slot;
            let mut valid = true.runtime();
            if listing.listed {
                let id = pages[listing.list + page];
                valid = id >= 0i32;
                page = max(id, 0i32) as usize;
            }
            stage_page(
                &mut slots,
                slot,
                page,
                valid,
                page_table,
                place,
                shape.page_size,
            );
        }
        sync_cube();
        attend::<F, N>(state, keys, values, &slots, n_slots, place, shape);
        sync_cube();
        chunk += shape.units;
    }
}

/// Attention of one split. Cubes: splits, runs of query heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn listed_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    pages: &Tensor<i32>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    partial: &mut Tensor<Vector<f32, N>>,
    stats: &mut Tensor<f32>,
    scale: f32,
    splitting: Splitting,
    #[comptime] listed: bool,
    #[comptime] shape: Shape,
    #[define(F)] _dtype: ElemType,
) {
    let (sequence, row) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let place = place(query, keys, page_table, lengths, sequence, row, shape.heads);
    let split = CUBE_POS_X as usize;
    let listing = listing(&place, pages, listed, shape.page_size);
    let per_split = pages_per_split(listing.n_pages, splitting.min_pages, splitting.max_splits);
    let first = split * per_split;
    if first >= listing.n_pages {
        publish_nothing(stats, split, &place, shape);
        terminate!();
    }
    let end = min(first + per_split, listing.n_pages);
    let mut state = softmax::<F, N>(query, scale, &place, shape);
    attend_listed::<F, N>(
        &mut state, keys, values, pages, page_table, &listing, first, end, &place, shape,
    );
    publish::<N>(&mut state, partial, stats, split, &place, shape);
}
