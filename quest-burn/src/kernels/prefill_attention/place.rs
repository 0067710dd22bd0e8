//! Which query tokens a cube has, and where their keys and values lie.

use cubecl::prelude::*;

/// A KV head of a sequence, and how far its cube reads.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    /// Row of the page table that lists its pages.
    pub table_row: usize,
    pub kv_head: usize,
    pub n_kv_heads: usize,
    pub n_pool_pages: usize,
    pub max_pages: usize,
    /// Keys from here on are seen by no query token of the cube.
    pub end: usize,
}

/// The query tokens of a cube.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Run {
    /// The first of them, among those of the step.
    pub first: usize,
    /// Row of the step's first query token of this sequence and head.
    pub first_row: usize,
    /// Position of the step's first token.
    pub start: usize,
    /// Tokens that the sequence gains.
    pub gained: usize,
    pub place: Place,
}

/// The query tokens of this cube. Cubes: runs of `run` query tokens, query heads, sequences.
#[cube]
pub(super) fn run_of_cube<F: Numeric, N: Size, P: Size>(
    query: &Tensor<Vector<F, P>>,
    keys: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    starts: &Tensor<i32>,
    lengths: &Tensor<i32>,
    #[comptime] run: usize,
) -> Run {
    let n_heads = query.shape(1);
    let tokens = query.shape(2);
    let n_kv_heads = keys.shape(1);
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    // The last tokens see the most keys: they begin first.
    let runs = (tokens + comptime!(run - 1)) / run;
    let first = (runs - 1 - CUBE_POS_X as usize) * run;
    let start = starts[sequence] as usize;
    let length = lengths[sequence] as usize;
    let gained = min(max(length, start) - start, tokens);
    let end = start + min(first + run, gained);
    let kv_head = head * n_kv_heads / n_heads;
    // One row of the page table for a sequence, or one for each of its KV heads.
    let lists = page_table.shape(0) / query.shape(0);
    Run {
        first,
        first_row: (sequence * n_heads + head) * tokens,
        start,
        gained,
        place: Place {
            table_row: sequence * lists + kv_head * lists / n_kv_heads,
            kv_head,
            n_kv_heads,
            n_pool_pages: keys.shape(0),
            max_pages: page_table.shape(1),
            end: select(first < gained, end, 0usize),
        },
    }
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
    let pool_page = page_table[place.table_row * place.max_pages + page] as usize;
    let pool_page = min(pool_page, place.n_pool_pages - 1);
    (pool_page * place.n_kv_heads + place.kv_head) * page_size + position % page_size
}
