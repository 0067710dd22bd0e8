//! Attention over listed pages, or over all of them.

use cubecl::prelude::*;

use super::{
    softmax::{Softmax, attend, softmax},
    split::{
        Place, Shape, pages_per_split, place, publish, publish_nothing, put_page, slots, stage_page,
    },
};

/// The pages that the query heads of a cube read.
#[derive(CubeType, Clone, Copy)]
struct Listing {
    /// Pages to read.
    n_pages: usize,
    /// Where they are listed; without a list, page `i` is the `i`-th.
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
            list: list_row(place, pages) * k,
        }
    } else {
        Listing {
            n_pages,
            list: 0usize.runtime(),
        }
    }
}

/// What a unit has read of its first page before the length of the sequence is known, as if the
/// sequence had at least as many pages as a list: of loads that wait for one another two fewer.
#[derive(CubeType, Clone, Copy)]
struct Ahead {
    /// The entry of the list, of which split it is, and how many pages a list has.
    id: i32,
    first: usize,
    k: usize,
    /// Where the page lies.
    pool_page: i32,
}

#[cube]
fn read_ahead(
    place: &Place,
    pages: &Tensor<i32>,
    page_table: &Tensor<i32>,
    split: usize,
    splitting: &Splitting,
    #[comptime] listed: bool,
) -> Ahead {
    if comptime!(listed) {
        let k = pages.shape(2);
        let first = split * pages_per_split(k, splitting.min_pages, splitting.max_splits);
        let entry = min(first + UNIT_POS as usize, k - 1);
        let id = pages[list_row(place, pages) * k + entry];
        let page = min(max(id, 0i32) as usize, place.max_pages - 1);
        Ahead {
            id,
            first,
            k,
            pool_page: page_table[place.sequence * place.max_pages + page],
        }
    } else {
        Ahead {
            id: 0i32.runtime(),
            first: 0usize.runtime(),
            k: 0usize.runtime(),
            pool_page: 0i32.runtime(),
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
    ahead: &Ahead,
    first: usize,
    end: usize,
    place: &Place,
    #[comptime] listed: bool,
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
            let mut is_ahead = false.runtime();
            if comptime!(listed) {
                is_ahead = chunk == ahead.first
                    && listing.n_pages == ahead.k
                    && ahead.id >= 0i32
                    && (ahead.id as usize) * shape.page_size < place.length;
                if is_ahead {
                    page = ahead.id as usize;
                } else {
                    let id = pages[listing.list + page];
                    valid = id >= 0i32;
                    page = max(id, 0i32) as usize;
                }
            }
            if is_ahead {
                put_page(
                    &mut slots,
                    slot,
                    page,
                    ahead.pool_page as usize,
                    place,
                    shape.page_size,
                );
            } else {
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
    let ahead = read_ahead(&place, pages, page_table, split, &splitting, listed);
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
        &mut state, keys, values, pages, page_table, &listing, &ahead, first, end, &place, listed,
        shape,
    );
    publish::<N>(&mut state, partial, stats, split, &place, shape);
}
