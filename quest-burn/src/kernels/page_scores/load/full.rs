use cubecl::prelude::*;

use super::{
    super::{super::row::dot, plan::ScoreShape},
    DigestLoad, DigestsArg, Loaded, Sums,
};
use crate::digest::KernelDigest;

/// Digests in the dtype of the query: `[n_pages, n_kv_heads, rows, channels]`.
pub(in super::super) struct Full;

#[cube]
impl DigestLoad for Full {
    fn pool<E: Numeric, N: Size>(digests: &DigestsArg<E, N>) -> (usize, usize) {
        (digests.rows.shape(0), digests.rows.shape(1))
    }

    fn load<D: KernelDigest, E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        pool_pages: &Array<usize>,
        head: usize,
        #[comptime] shape: ScoreShape,
    ) -> Loaded<E, N> {
        let ScoreShape {
            lanes,
            vectors,
            in_flight,
            digest: of_digest,
            ..
        } = comptime!(shape);
        let n_kv_heads = digests.rows.shape(1);
        let lane = UNIT_POS as usize % lanes;
        let row = comptime!(lanes * vectors);
        let mut first = Array::<Vector<E, N>>::new(comptime!(in_flight * vectors));
        let mut second = Array::<Vector<E, N>>::new(comptime!(in_flight * vectors));
        let mut scalars = Array::<f32>::new(in_flight);
        #[unroll]
        for p in 0..in_flight {
            let digest = (pool_pages[p] * n_kv_heads + head) * of_digest + lane;
            #[unroll]
            for v in 0..vectors {
                first[p * vectors + v] = digests.rows[digest + v * lanes];
                if comptime!(D::ROWS == 2) {
                    second[p * vectors + v] = digests.rows[digest + row + v * lanes];
                }
            }
            if comptime!(D::SCALAR) {
                let behind = Vector::<f32, N>::cast_from(digests.rows[digest - lane + row]);
                scalars[p] = behind.extract(0usize);
            }
        }
        Loaded::<E, N> {
            first,
            second,
            scales: Array::new(1usize),
            scalars,
        }
    }

    fn add_products<D: KernelDigest, F: Float, E: Numeric, N: Size>(
        sums: &mut Sums,
        loaded: &Loaded<E, N>,
        query: &Tensor<Vector<F, N>>,
        norm: f32,
        query_head: usize,
        #[comptime] member: usize,
        #[comptime] vector: usize,
        #[comptime] shape: ScoreShape,
    ) -> f32 {
        let ScoreShape {
            group,
            lanes,
            vectors,
            width,
            in_flight,
            ..
        } = comptime!(shape);
        let lane = UNIT_POS as usize % lanes;
        let row = comptime!(lanes * vectors);
        let mut norm = norm;
        let q = Vector::<f32, N>::cast_from(query[query_head * row + vector * lanes + lane]);
        let (with_first, with_second) = D::factors::<N>(q);
        if comptime!(D::SCALAR) {
            norm = dot::<N>(q, q, norm, width);
        }
        #[unroll]
        for p in 0..in_flight {
            let at = comptime!(p * group + member);
            let first = Vector::<f32, N>::cast_from(loaded.first[p * vectors + vector]);
            sums.products[at] = dot::<N>(with_first, first, sums.products[at], width);
            if comptime!(D::ROWS == 2) {
                let second = Vector::<f32, N>::cast_from(loaded.second[p * vectors + vector]);
                if comptime!(D::SQUARED) {
                    let squares = sums.squares[at];
                    sums.squares[at] = dot::<N>(with_second, second * second, squares, width);
                } else {
                    sums.products[at] = dot::<N>(with_second, second, sums.products[at], width);
                }
            }
        }
        norm
    }
}
