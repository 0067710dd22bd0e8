use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        append::digest_vectors,
        launch::address_type,
        operands::Places,
        row::{RowLayout, dot, lanes_sum},
    },
    Scoring,
    pages::{next_pages, pages_of, write_scores},
    plan::{Plan, ScoreShape},
};
use crate::digest::{DigestKind, KernelDigest, with_digest};

/// Each lane's part of the products of `in_flight` pages, `[page, query head]`, and, where there are
/// any, of the products with squares; each digest is read once for all query heads of its group.
#[cube]
fn sums_of_pages<D: KernelDigest, F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &Tensor<Vector<F, N>>,
    pool_pages: &Array<usize>,
    sequence: usize,
    head: usize,
    #[comptime] shape: ScoreShape,
) -> (Array<f32>, Array<f32>) {
    let ScoreShape {
        group,
        lanes,
        vectors,
        width,
        in_flight,
        digest: of_digest,
        ..
    } = comptime!(shape);
    let n_kv_heads = digests.shape(1);
    let lane = UNIT_POS as usize % lanes;
    let row = comptime!(lanes * vectors);

    let mut low = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
    let mut high = Array::<Vector<F, N>>::new(comptime!(in_flight * vectors));
    let mut scalars = Array::<f32>::new(in_flight);
    #[unroll]
    for p in 0..in_flight {
        let digest = (pool_pages[p] * n_kv_heads + head) * of_digest + lane;
        #[unroll]
        for v in 0..vectors {
            low[p * vectors + v] = digests[digest + v * lanes];
            if comptime!(D::ROWS == 2) {
                high[p * vectors + v] = digests[digest + row + v * lanes];
            }
        }
        if comptime!(D::SCALAR) {
            let behind = Vector::<f32, N>::cast_from(digests[digest - lane + row]);
            scalars[p] = behind.extract(0usize);
        }
    }

    let n = comptime!(group * in_flight);
    let mut sums = Array::<f32>::new(n);
    let mut squares = Array::<f32>::new(n);
    #[unroll]
    for g in 0..group {
        let query_head = (sequence * n_kv_heads + head) * group + g;
        #[unroll]
        for p in 0..in_flight {
            sums[p * group + g] = f32::new(0.0);
            squares[p * group + g] = f32::new(0.0);
        }
        let mut norm = f32::new(0.0);
        #[unroll]
        for v in 0..vectors {
            let q = Vector::<f32, N>::cast_from(query[query_head * row + v * lanes + lane]);
            let (first, second) = D::factors::<N>(q);
            if comptime!(D::SCALAR) {
                norm = dot::<N>(q, q, norm, width);
            }
            #[unroll]
            for p in 0..in_flight {
                let at = comptime!(p * group + g);
                let l = Vector::<f32, N>::cast_from(low[p * vectors + v]);
                sums[at] = dot::<N>(first, l, sums[at], width);
                if comptime!(D::ROWS == 2) {
                    let h = Vector::<f32, N>::cast_from(high[p * vectors + v]);
                    if comptime!(D::SQUARED) {
                        squares[at] = dot::<N>(second, h * h, squares[at], width);
                    } else {
                        sums[at] = dot::<N>(second, h, sums[at], width);
                    }
                }
            }
        }
        if comptime!(D::SCALAR) {
            // Once for the run: its lanes' parts are summed up.
            let deviations = f32::new(comptime!(shape.deviations.value()));
            let norm = deviations * f32::sqrt(lanes_sum(norm, lanes));
            let norm = select(lane == 0, norm, 0.0f32);
            #[unroll]
            for p in 0..in_flight {
                sums[p * group + g] = fma(norm, scalars[p], sums[p * group + g]);
            }
        }
    }
    (sums, squares)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn page_scores_kernel<D: KernelDigest, F: Float, N: Size>(
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
        let (mut sums, mut squares) =
            sums_of_pages::<D, F, N>(query, digests, &pool_pages, sequence, head, shape);
        write_scores::<D>(
            &mut sums,
            &mut squares,
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

/// Scores by digests in the dtype of the query.
pub(super) fn launch(
    query: CubeTensor,
    digest: DigestKind,
    digests: CubeTensor,
    places: Places<CubeBackend>,
    scoring: Scoring,
) -> CubeTensor {
    let digests = into_contiguous(digests);
    let n_kv_heads = digests.meta.shape()[1];
    let head_dim = query.meta.shape()[2];
    let layout = RowLayout::with_head_dim(&digests, head_dim);
    let Plan {
        shape,
        cubes,
        dim,
        scores,
    } = Plan::new(&query, &layout, n_kv_heads, digest, scoring);
    let (of_digest, _) = digest_vectors(digest, layout.row_vectors(), layout.width);
    let shape = ScoreShape {
        digest: of_digest,
        ..shape
    };
    let client = query.client.clone();
    let address = address_type(&[&digests, &scores]);
    let dtype = dtype_to_storage_type(digests.dtype);
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    with_digest!(digest, D => unsafe {
        page_scores_kernel::launch_unchecked::<D>(
            &client,
            cubes,
            dim,
            address,
            layout.width,
            query.into_tensor_arg(),
            digests.into_tensor_arg(),
            places.page_table.into_tensor_arg(),
            places.lengths.into_tensor_arg(),
            scores.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    });
    scores
}
