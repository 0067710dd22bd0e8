use cubecl::prelude::*;

use super::{
    softmax::{attend, softmax},
    split::{Shape, pages_per_split, place, publish, publish_nothing, slots, stage_page},
};

/// Attention of one split over listed pages, or over all of them.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn listed_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    pages: &Tensor<i32>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    partial: &mut Tensor<f32>,
    scale: f32,
    min_pages: u32,
    max_splits: u32,
    #[comptime] listed: bool,
    #[comptime] shape: Shape,
    #[define(F)] _dtype: ElemType,
) {
    let place = place(query, keys, page_table, lengths, shape.heads);
    let split = CUBE_POS_X as usize;
    let page_size = comptime!(shape.page_size);
    let mut n_pages = min((place.length + page_size - 1) / page_size, place.max_pages);
    let mut list = 0usize;
    if comptime!(listed) {
        let list_heads = pages.shape(1);
        let k = pages.shape(2);
        let head = place.query_head * list_heads / place.n_heads;
        list = (place.sequence * list_heads + head) * k;
        n_pages = min(n_pages, k);
    }
    let per_split = pages_per_split(n_pages, min_pages, max_splits);
    let first = split * per_split;
    if first >= n_pages {
        publish_nothing(partial, split, &place, shape);
        terminate!();
    }
    let end = min(first + per_split, n_pages);

    let mut slots = slots(shape.units);
    let mut state = softmax::<F, N>(query, scale, &place, shape);
    let mut chunk = first;
    while chunk < end {
        let n_slots = min(end - chunk, shape.units);
        let slot = UNIT_POS as usize;
        if slot < n_slots {
            let mut page = chunk + slot;
            let mut valid = true.runtime();
            if comptime!(listed) {
                let id = pages[list + page];
                valid = id >= 0i32;
                page = max(id, 0i32) as usize;
            }
            stage_page(&mut slots, slot, page, valid, page_table, &place, page_size);
        }
        sync_cube();
        attend::<F, N>(&mut state, keys, values, &slots, n_slots, &place, shape);
        sync_cube();
        chunk += shape.units;
    }
    publish::<N>(&mut state, partial, split, &place, shape);
}
