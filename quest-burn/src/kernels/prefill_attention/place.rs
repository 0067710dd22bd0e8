//! Where the keys and values of a cube lie.

use cubecl::prelude::*;

/// A KV head of a sequence, and how far its cube reads.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub sequence: usize,
    pub kv_head: usize,
    pub n_kv_heads: usize,
    pub n_pool_pages: usize,
    pub max_pages: usize,
    /// Keys from here on are seen by no query token of the cube.
    pub end: usize,
}

/// The row of the pools that holds a position of the sequence; page and pool page are clamped.
#[cube]
pub(super) fn pool_row(
    page_table: &Tensor<i32>,
    position: usize,
    place: &Place,
    #[comptime] page_size: usize,
) -> usize {
    let page = min(position / page_size, place.max_pages - 1);
    let pool_page = page_table[place.sequence * place.max_pages + page] as usize;
    let pool_page = min(pool_page, place.n_pool_pages - 1);
    (pool_page * place.n_kv_heads + place.kv_head) * page_size + position % page_size
}
