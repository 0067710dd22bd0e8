use cubecl::prelude::*;

use super::{
    super::place::{Run, run_of_cube},
    output::{rescale, write},
    rows::{add_values, nothing_passed, score, start_rows, take_queries},
    shape::CooperativeShape,
    softmax::weigh,
    tile::{empty_tile, load, nothing_loaded, stage, stage_queries},
};

/// Cubes: runs of query tokens, query heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn cooperative_prefill_kernel<F: Float, W: Numeric, N: Size, P: Size>(
    query: &Tensor<Vector<W, N>>,
    keys: &Tensor<Vector<W, N>>,
    values: &Tensor<Vector<W, N>>,
    page_table: &Tensor<i32>,
    starts: &Tensor<i32>,
    lengths: &Tensor<i32>,
    output: &mut Tensor<Vector<F, N>>,
    scale: f32,
    #[comptime] shape: CooperativeShape,
    #[define(F)] _dtype: ElemType,
    #[define(W)] _word_type: ElemType,
) {
    let Run {
        first,
        first_row,
        start,
        gained,
        place,
    } = run_of_cube::<W, N, N>(query, keys, page_table, starts, lengths, shape.tokens());

    let mut tile = empty_tile::<W, N>(shape);
    let mut passed = nothing_passed::<W, N>(shape);
    let mut rows = start_rows::<F>(shape);
    let mut corrections = Array::<f32>::new(shape.own_rows());
    #[unroll]
    for chunk in 0..comptime!(shape.tokens() / shape.keys) {
        let at = comptime!(chunk * shape.keys);
        stage_queries::<W, N>(&mut tile, query, first_row, first + at, shape);
        sync_cube();
        take_queries::<F, W, N>(&mut rows, &tile, at, shape);
        sync_cube();
    }
    let mut loaded = nothing_loaded::<W, N>(shape);
    let mut first_key = 0usize;
    load::<W, N>(
        &mut loaded,
        keys,
        values,
        page_table,
        first_key,
        &place,
        shape,
    );
    while first_key < place.end {
        stage::<W, N>(&mut tile, &loaded, shape);
        sync_cube();
        let next = first_key + shape.keys;
        // The next tile is on its way while this one is folded.
        load::<W, N>(&mut loaded, keys, values, page_table, next, &place, shape);
        score::<F, W, N>(&mut passed, &rows, &tile, shape);
        sync_plane();
        let visible = (start + first + 1) as i32 - first_key as i32;
        let masked = next > start + first + 1;
        let risen = weigh::<F, W, N, P>(
            &mut passed,
            &mut rows,
            &mut corrections,
            visible,
            masked,
            scale,
            shape,
        );
        sync_plane();
        if plane_any(risen) {
            rescale::<F, W, N>(&mut passed, &mut rows, &corrections, shape);
        }
        add_values::<F, W, N>(&mut rows, &passed, &tile, shape);
        sync_cube();
        first_key = next;
    }
    write::<F, W, N>(&rows, &mut passed, output, first_row, first, gained, shape);
}
