use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        append::digest_vectors,
        args::PlacesArg,
        launch::address_type,
        operands::{Digests, Places},
        row::{RowLayout, lanes_sum},
    },
    Scoring,
    load::{DigestLoad, DigestsArg, DigestsArgLaunch, Full, INT8_WIDTH, Int8, Sums},
    matrix::{self, MatrixScores},
    pages::{next_pages, pages_of, write_scores},
    plan::Plan,
    plan::ScoreShape,
};
use crate::{
    cache::CHANNELS_PER_WORD,
    digest::{DigestKind, KernelDigest, with_digest},
};

/// Each lane's part of the sums of `in_flight` pages; each digest is read once for all query heads of
/// its group.
#[cube]
fn sums_of_pages<D: KernelDigest, L: DigestLoad, F: Float, E: Numeric, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &DigestsArg<E, N>,
    pool_pages: &Array<usize>,
    first_head: usize,
    head: usize,
    #[comptime] shape: ScoreShape,
) -> Sums {
    let ScoreShape {
        group,
        lanes,
        vectors,
        in_flight,
        ..
    } = comptime!(shape);
    let lane = UNIT_POS as usize % lanes;
    let loaded = L::load::<D, E, N>(digests, pool_pages, head, shape);
    let n = comptime!(group * in_flight);
    let mut sums = Sums {
        products: Array::new(n),
        squares: Array::new(n),
    };
    #[unroll]
    for g in 0..group {
        #[unroll]
        for p in 0..in_flight {
            sums.products[p * group + g] = f32::new(0.0);
            sums.squares[p * group + g] = f32::new(0.0);
        }
        let mut norm = f32::new(0.0);
        #[unroll]
        for v in 0..vectors {
            norm = L::add_products::<D, F, E, N>(
                &mut sums,
                &loaded,
                query,
                norm,
                first_head + g,
                g,
                v,
                shape,
            );
        }
        if comptime!(D::SCALAR) {
            // Once for the run: its lanes' parts are summed up.
            let deviations = f32::new(comptime!(shape.deviations.to_f32()));
            let norm = deviations * f32::sqrt(lanes_sum(norm, lanes));
            let norm = select(lane == 0, norm, 0.0f32);
            #[unroll]
            for p in 0..in_flight {
                let sum = sums.products[p * group + g];
                sums.products[p * group + g] = fma(norm, loaded.scalars[p], sum);
            }
        }
    }
    sums
}

/// Scores by digests of any kind in any form of storage. Cubes: runs of pages, KV heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
fn page_scores_kernel<D: KernelDigest, L: DigestLoad, F: Float, E: Numeric, N: Size>(
    query: &Tensor<Vector<F, N>>,
    digests: &DigestsArg<E, N>,
    places: &PlacesArg,
    scores: &mut Tensor<f32>,
    #[comptime] shape: ScoreShape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _digest_type: ElemType,
) {
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let first = CUBE_POS_X as usize * comptime!(shape.pages());
    let (n_pool_pages, n_kv_heads) = L::pool::<E, N>(digests);
    let pool_pages = next_pages(places, n_pool_pages, sequence, first, shape);
    let n_pages = pages_of(places, scores.shape(2), sequence, shape);
    if first < n_pages {
        let kv_head = sequence * n_kv_heads + head;
        let mut sums = sums_of_pages::<D, L, F, E, N>(
            query,
            digests,
            &pool_pages,
            kv_head * shape.group,
            head,
            shape,
        );
        write_scores::<D>(&mut sums, scores, kv_head, first, n_pages, shape);
    }
}

/// Scores of each page, `[batch, heads, n_scores]`.
pub(in crate::kernels) fn launch(
    query: CubeTensor,
    digests: Digests<CubeBackend>,
    places: Places<CubeBackend>,
    scoring: Scoring,
) -> CubeTensor {
    let query = into_contiguous(query);
    let head_dim = query.meta.shape()[2];
    let stored = match digests {
        Digests::Full { kind, rows } => {
            let rows = into_contiguous(rows);
            let layout = RowLayout::with_head_dim(&rows, head_dim);
            let (of_digest, _) = digest_vectors(kind, layout.row_vectors(), layout.width);
            Stored {
                kind,
                layout,
                of_digest,
                n_kv_heads: rows.meta.shape()[1],
                rows,
                scales: None,
            }
        }
        Digests::Int8 {
            kind,
            words,
            scales,
            ..
        } => {
            let (words, scales) = (into_contiguous(words), into_contiguous(scales));
            let plane = query.client.properties().hardware.plane_size_min as usize;
            let channels = INT8_WIDTH * CHANNELS_PER_WORD;
            let row = head_dim / channels;
            Stored {
                kind,
                layout: RowLayout::of_vectors(row, channels, plane),
                of_digest: kind.layout().rows * row,
                n_kv_heads: words.meta.shape()[0],
                rows: words,
                scales: Some(scales),
            }
        }
    };
    if let Some(shape) = MatrixScores::new(&query, &stored, scoring) {
        return matrix::launch(query, stored, places, scoring.n_scores, shape);
    }
    if stored.scales.is_some() {
        launch_by::<Int8>(query, stored, places, scoring)
    } else {
        launch_by::<Full>(query, stored, places, scoring)
    }
}

/// Digests as a launch binds them.
pub(super) struct Stored {
    pub kind: DigestKind,
    /// How lanes share a row.
    layout: RowLayout,
    /// Vectors of a page's digest of one head.
    of_digest: usize,
    pub n_kv_heads: usize,
    pub rows: CubeTensor,
    /// Of digests in 8 bits.
    pub scales: Option<CubeTensor>,
}

fn launch_by<L: DigestLoad>(
    query: CubeTensor,
    stored: Stored,
    places: Places<CubeBackend>,
    scoring: Scoring,
) -> CubeTensor {
    let Stored {
        kind,
        layout,
        of_digest,
        n_kv_heads,
        rows,
        scales,
    } = stored;
    let Plan {
        shape,
        cubes,
        dim,
        scores,
    } = Plan::new(&query, &layout, n_kv_heads, kind, scoring);
    let shape = ScoreShape {
        digest: of_digest,
        ..shape
    };
    // Words in 8 bits are read in vectors of `INT8_WIDTH`, the query's channels of a word at a time.
    let width = if scales.is_some() {
        INT8_WIDTH
    } else {
        layout.width
    };
    let client = query.client.clone();
    let address = address_type(&[&rows, &scores]);
    let dtype = dtype_to_storage_type(query.dtype);
    let digest_type = dtype_to_storage_type(rows.dtype);
    let digests = DigestsArgLaunch::new(
        rows.into_tensor_arg(),
        scales.map(CubeTensor::into_tensor_arg).into(),
    );
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    with_digest!(kind, D => unsafe {
        page_scores_kernel::launch_unchecked::<D, L>(
            &client,
            cubes,
            dim,
            address,
            width,
            query.into_tensor_arg(),
            digests,
            places.into_arg(),
            scores.clone().into_tensor_arg(),
            shape,
            dtype,
            digest_type,
        );
    });
    scores
}
