use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        launch::address_type,
        row::{RowLayout, dot},
    },
    pages::{next_pages, pages_of, write_scores},
    plan::{Plan, ScoreShape},
};

/// Each lane's part of the bounds of `in_flight` pages, `[page, query head]`; each digest is read
/// once for all query heads of its group.
///
/// The bound `sum_i max(q_i * min_i, q_i * max_i)` is taken as `max(q, 0) . max + min(q, 0) . min`.
#[cube]
fn sums_of_pages<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    pool_pages: &Array<usize>,
    sequence: usize,
    head: usize,
    #[comptime] shape: ScoreShape,
) -> Array<f32> {
    let ScoreShape {
        group,
        lanes,
        vectors,
        width,
        in_flight,
        ..
    } = comptime!(shape);
    let n_kv_heads = digests.shape(1);
    let lane = UNIT_POS as usize % lanes;
    let row = comptime!(lanes * vectors);

    let mut low = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
    let mut high = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
    #[unroll]
    for p in 0..in_flight {
        let digest = (pool_pages[p] * n_kv_heads + head) * 2 * row + lane;
        #[unroll]
        for v in 0..vectors {
            low[p * vectors + v] = digests[digest + v * lanes];
            high[p * vectors + v] = digests[digest + row + v * lanes];
        }
    }

    let zero = Vector::<f32, N>::new(0.0f32);
    let n = comptime!(group * in_flight);
    let mut sums = Array::<f32>::new(n);
    #[unroll]
    for g in 0..group {
        let query_head = (sequence * n_kv_heads + head) * group + g;
        #[unroll]
        for p in 0..in_flight {
            sums[p * group + g] = f32::new(0.0);
        }
        #[unroll]
        for v in 0..vectors {
            let q = Vector::<f32, N>::cast_from(query[query_head * row + v * lanes + lane]);
            let positive = max(q, zero);
            let negative = min(q, zero);
            #[unroll]
            for p in 0..in_flight {
                let h = Vector::<f32, N>::cast_from(high[p * vectors + v]);
                let l = Vector::<f32, N>::cast_from(low[p * vectors + v]);
                let sum = dot::<N>(negative, l, sums[p * group + g], width);
                sums[p * group + g] = dot::<N>(positive, h, sum, width);
            }
        }
    }
    sums
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn page_scores_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    scores: &mut Tensor<f32>,
    #[comptime] shape: ScoreShape,
    #[define(F)] _dtype: ElemType,
) {
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let first = CUBE_POS_X as usize * comptime!(shape.pages());
    let pool_pages = next_pages(page_table, digests.shape(0), sequence, first, shape);
    let n_pages = pages_of(page_table, lengths, scores.shape(2), sequence, shape);
    if first < n_pages {
        let mut sums = sums_of_pages::<F, N>(query, digests, &pool_pages, sequence, head, shape);
        write_scores(
            &mut sums,
            scores,
            digests.shape(1),
            sequence,
            head,
            first,
            n_pages,
            shape,
        );
    }
}

/// Bounds of the attention scores of each page, `[batch, heads, n_scores]`.
pub(crate) fn launch_page_scores(
    query: CubeTensor,
    digests: CubeTensor,
    page_table: CubeTensor,
    lengths: CubeTensor,
    page_size: usize,
    shared: bool,
    n_scores: usize,
) -> CubeTensor {
    let query = into_contiguous(query);
    let digests = into_contiguous(digests);
    let n_kv_heads = digests.meta.shape()[1];
    let layout = RowLayout::of(&digests);
    let Plan {
        shape,
        cubes,
        dim,
        scores,
    } = Plan::new(&query, &layout, n_kv_heads, shared, page_size, n_scores);
    let client = query.client.clone();
    let address = address_type(&[&digests, &scores]);
    let dtype = dtype_to_storage_type(digests.dtype);
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    unsafe {
        page_scores_kernel::launch_unchecked(
            &client,
            cubes,
            dim,
            address,
            layout.width,
            query.into_tensor_arg(),
            digests.into_tensor_arg(),
            into_contiguous(page_table).into_tensor_arg(),
            lengths.into_tensor_arg(),
            scores.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    }
    scores
}
