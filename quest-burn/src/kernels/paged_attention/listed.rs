//! Attention over listed pages, or over all of them.

use cubecl::prelude::*;

use super::{
    super::args::PlacesArg,
    args::{ReadArg, SplitsArg},
    softmax::{attend, softmax},
    split::{
        Place, Shape, Slots, Splitting, pages_per_split, place, publish, publish_nothing, put_page,
        slots, stage_page,
    },
};
use crate::row_load::RowLoad;

/// The pages that the query heads of a cube read.
#[derive(CubeType, Clone, Copy)]
struct Listing {
    /// Pages to read.
    n_pages: usize,
    /// Where they are listed; without a list, page `i` is the `i`-th.
    list: usize,
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

/// The first list entry of a unit and its pool page, loaded before the length of the sequence is there, as
/// if the sequence had as many pages as a list; removes two dependent loads.
#[derive(CubeType, Clone, Copy)]
struct PrefetchedPage {
    /// The entry of the list, of which split it is, and how many pages a list has.
    id: i32,
    first: usize,
    k: usize,
    /// Where the page lies.
    pool_page: i32,
}

#[cube]
fn prefetch_page(
    place: &Place,
    pages: &Tensor<i32>,
    places: &PlacesArg,
    split: usize,
    splitting: &Splitting,
    #[comptime] listed: bool,
) -> PrefetchedPage {
    if comptime!(listed) {
        let k = pages.shape(2);
        let first = split * pages_per_split(k, splitting);
        let entry = min(first + UNIT_POS as usize, k - 1);
        let id = pages[list_row(place, pages) * k + entry];
        let page = min(max(id, 0i32) as usize, place.max_pages - 1);
        PrefetchedPage {
            id,
            first,
            k,
            pool_page: places.page_table[place.sequence * place.max_pages + page],
        }
    } else {
        PrefetchedPage {
            id: 0i32.runtime(),
            first: 0usize.runtime(),
            k: 0usize.runtime(),
            pool_page: 0i32.runtime(),
        }
    }
}

/// What a cube reads: the pages of a listing from `first` to `end`, none if there is no such split.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Reading {
    pub place: Place,
    listing: Listing,
    prefetched: PrefetchedPage,
    pub first: usize,
    pub end: usize,
}

/// What this cube reads. Cubes: splits, runs of `heads` query heads, sequences.
#[cube]
pub(super) fn reading<F: Float, N: Size, E: Numeric, W: Size>(
    read: &ReadArg<F, N, E, W>,
    splitting: &Splitting,
    #[comptime] listed: bool,
    #[comptime] heads: usize,
    #[comptime] page_size: usize,
) -> Reading {
    let (sequence, row) = (CUBE_POS_Z as usize, CUBE_POS_Y as usize);
    let place = place(read, sequence, row, heads);
    let split = CUBE_POS_X as usize;
    let prefetched = prefetch_page(&place, &read.pages, &read.places, split, splitting, listed);
    let listing = listing(&place, &read.pages, listed, page_size);
    let per_split = pages_per_split(listing.n_pages, splitting);
    let first = split * per_split;
    let end = min(first + per_split, listing.n_pages);
    Reading {
        place,
        listing,
        prefetched,
        first,
        end,
    }
}

/// Puts the pages from `chunk` on into the first `n_slots` slots, one for each unit.
#[cube]
pub(super) fn stage_chunk<F: Float, N: Size, E: Numeric, W: Size>(
    slots: &mut Slots,
    chunk: usize,
    n_slots: usize,
    read: &ReadArg<F, N, E, W>,
    reading: &Reading,
    #[comptime] listed: bool,
    #[comptime] page_size: usize,
) {
    let slot = UNIT_POS as usize;
    if slot < n_slots {
        let mut page = chunk + slot;
        let mut valid = true.runtime();
        let mut is_prefetched = false.runtime();
        if comptime!(listed) {
            is_prefetched = chunk == reading.prefetched.first
                && reading.listing.n_pages == reading.prefetched.k
                && reading.prefetched.id >= 0i32
                && (reading.prefetched.id as usize) * page_size < reading.place.length;
            if is_prefetched {
                page = reading.prefetched.id as usize;
            } else {
                let id = read.pages[reading.listing.list + page];
                valid = id >= 0i32;
                page = max(id, 0i32) as usize;
            }
        }
        if is_prefetched {
            let pool_page = reading.prefetched.pool_page as usize;
            put_page(slots, slot, page, pool_page, &reading.place, page_size);
        } else {
            stage_page(
                slots,
                slot,
                page,
                valid,
                &read.places.page_table,
                &reading.place,
                page_size,
            );
        }
    }
}

/// Attention of one split. Cubes: splits, runs of query heads, sequences. Loads of rows are as wide as vectors of
/// queries: of channels, or of words.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn listed_kernel<L: RowLoad, F: Float, E: Numeric, N: Size>(
    read: &ReadArg<F, N, E, N>,
    splits: &mut SplitsArg<N>,
    scale: f32,
    splitting: Splitting,
    #[comptime] listed: bool,
    #[comptime] shape: Shape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored_type: ElemType,
) {
    let reading = reading(read, &splitting, listed, shape.heads, shape.page_size);
    let split = CUBE_POS_X as usize;
    if reading.first >= reading.end {
        publish_nothing::<N>(splits, split, &reading.place, shape.heads);
        terminate!();
    }
    let mut state = softmax::<F, N>(&read.query, scale, &reading.place, shape);
    let mut slots = slots(shape.units);
    let mut chunk = reading.first;
    while chunk < reading.end {
        let n_slots = min(reading.end - chunk, shape.units);
        stage_chunk::<F, N, E, N>(
            &mut slots,
            chunk,
            n_slots,
            read,
            &reading,
            listed,
            shape.page_size,
        );
        sync_cube();
        attend::<L, E, N>(
            &mut state,
            &read.keys,
            &read.values,
            &slots,
            n_slots,
            &reading.place,
            shape,
        );
        sync_cube();
        chunk += shape.units;
    }
    publish::<N>(&mut state, splits, split, &reading.place, shape);
}
