use cubecl::{cmma::MmaDefinition, prelude::*};

use super::{
    super::{
        super::{
            args::PlacesArg,
            matrix_instruction::{COLUMNS, DEPTH, PACKED, PLANE, ROWS},
            row::{dot, lanes_sum},
        },
        load::DigestsArg,
        pages::{of_both, of_group},
    },
    LANES, MatrixScores, WIDTH,
    load::{MatrixLoad, vector_of},
};
use crate::{digest::KernelDigest, pages::GroupRule};

/// What a lane has of the queries of its group: two registers for each of two instructions for each
/// load of a row, as factors of the first row and, where there is one, of the second.
#[derive(CubeType)]
struct Queries<F: Float, P: Size> {
    first: Array<Vector<F, P>>,
    second: Array<Vector<F, P>>,
    /// The norm of the query, times what deviations are multiplied by.
    norm: f32,
}

#[cube]
fn load_queries<D: KernelDigest, L: MatrixLoad, F: Float, W: Size, P: Size>(
    query: &Tensor<Vector<F, W>>,
    first_head: usize,
    #[comptime] shape: MatrixScores,
) -> Queries<F, P> {
    let lane = UNIT_POS_PLANE as usize;
    let vectors = comptime!(shape.vectors());
    let mut first = Array::<Vector<F, P>>::new(comptime!(4 * vectors));
    let mut second = Array::<Vector<F, P>>::new(comptime!(4 * vectors));
    let mut norm = f32::new(0.0);
    // Of rows past the heads the results are not used, or are those of the last head once more.
    let head = first_head + min(lane / LANES, comptime!(shape.group - 1));
    #[unroll]
    for v in 0..vectors {
        let vector = query[head * shape.row() + comptime!(vector_of(v)) + lane % LANES];
        let q = Vector::<f32, W>::cast_from(vector);
        let (with_first, with_second) = D::factors::<W>(q);
        if comptime!(D::SCALAR) {
            norm = dot::<W>(q, q, norm, WIDTH);
        }
        #[unroll]
        for i in 0..4usize {
            let mut of_first = Vector::<F, P>::new(F::new(0.0));
            let mut of_second = Vector::<F, P>::new(F::new(0.0));
            #[unroll]
            for place in 0..PACKED {
                let channel = comptime!(L::channel(i / 2, i % 2, place));
                of_first.insert(place, F::cast_from(with_first.extract(channel)));
                of_second.insert(place, F::cast_from(with_second.extract(channel)));
            }
            first[comptime!(4 * v + i)] = of_first;
            second[comptime!(4 * v + i)] = of_second;
        }
    }
    if comptime!(D::SCALAR) {
        let deviations = f32::new(comptime!(shape.deviations.to_f32()));
        norm = deviations * f32::sqrt(lanes_sum(norm, LANES));
    }
    Queries::<F, P> {
        first,
        second,
        norm,
    }
}

/// `sum + queries * rows` over the channels of a load.
#[cube]
fn multiply<L: MatrixLoad, F: Float, P: Size, E: Numeric, N: Size>(
    queries: &Array<Vector<F, P>>,
    load: Vector<E, N>,
    sum: Array<Vector<f32, P>>,
    #[comptime] vector: usize,
) -> Array<Vector<f32, P>> {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let none = Vector::<F, P>::new(F::new(0.0));
    let mut sum = sum;
    #[unroll]
    for instruction in 0..2usize {
        let mut lhs = Array::<Vector<F, P>>::new(4usize);
        #[unroll]
        for register in 0..2usize {
            lhs[2 * register] = queries[comptime!(4 * vector + 2 * instruction + register)];
            lhs[2 * register + 1] = none;
        }
        let rhs = L::registers::<F, P, E, N>(load, instruction);
        sum = definition.execute(&lhs, &rhs, &sum);
    }
    sum
}

#[cube]
fn no_sum<P: Size>() -> Array<Vector<f32, P>> {
    let mut sum = Array::<Vector<f32, P>>::new(2usize);
    sum[0] = Vector::new(0.0f32);
    sum[1] = Vector::new(0.0f32);
    sum
}

/// A number of each of the two pages whose scores this lane gets, from the lanes that loaded them.
#[cube]
fn of_both_pages<P: Size>(value: f32, #[comptime] from: usize) -> Vector<f32, P> {
    let t = UNIT_POS_PLANE as usize % LANES;
    let mut of_pages = Vector::<f32, P>::new(0.0f32);
    #[unroll]
    for i in 0..PACKED {
        let lane = (PACKED * t + i) * LANES + from;
        of_pages.insert(i, plane_shuffle(value, lane as u32));
    }
    of_pages
}

/// Cubes: runs of pages, KV heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn matrix_kernel<
    D: KernelDigest,
    L: MatrixLoad,
    F: Float,
    E: Numeric,
    W: Size,
    N: Size,
    P: Size,
>(
    query: &Tensor<Vector<F, W>>,
    digests: &DigestsArg<E, N>,
    places: &PlacesArg,
    scores: &mut Tensor<f32>,
    #[comptime] shape: MatrixScores,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _digest_type: ElemType,
) {
    let (n_pool_pages, n_kv_heads) = L::pool::<E, N>(digests);
    let max_pages = places.page_table.shape(1);
    let n_scores = scores.shape(2);
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let in_flight = comptime!(shape.in_flight);
    let vectors = comptime!(shape.vectors());
    let lane = UNIT_POS_PLANE as usize;
    let plane = UNIT_POS as usize / PLANE;
    let (g, t) = (lane / LANES, lane % LANES);
    let first = CUBE_POS_X as usize * shape.pages() + plane * shape.plane_pages();

    // Apart from the scoring, so that the page table is read while the length is on its way.
    let mut pool_pages = Array::<usize>::new(in_flight);
    #[unroll]
    for p in 0..in_flight {
        let page = min(first + p * COLUMNS + g, max_pages - 1);
        let pool_page = places.page_table[sequence * max_pages + page] as usize;
        pool_pages[p] = min(pool_page, n_pool_pages - 1);
    }
    let n_pages = (places.lengths[sequence] as usize + shape.page_size - 1) / shape.page_size;
    let n_pages = min(min(n_pages, max_pages), n_scores);
    if first < n_pages {
        let n_loads = comptime!(in_flight * vectors);
        let mut rows = Array::<Vector<E, N>>::new(n_loads);
        let mut second_rows = Array::<Vector<E, N>>::new(n_loads);
        let mut scales = Array::<f32>::new(in_flight);
        let mut scalars = Array::<f32>::new(in_flight);
        #[unroll]
        for p in 0..in_flight {
            let place = L::place::<E, N>(digests, pool_pages[p], head, shape);
            #[unroll]
            for v in 0..vectors {
                let at = place.0 + comptime!(vector_of(v)) + t;
                rows[p * vectors + v] = digests.rows[at];
                if comptime!(D::ROWS == 2) {
                    second_rows[p * vectors + v] = digests.rows[at + comptime!(shape.row())];
                }
            }
            if comptime!(L::SCALED) {
                scales[p] = L::scale::<E, N>(digests, place.1, t, shape);
            }
            if comptime!(D::SCALAR) {
                scalars[p] = L::scalar::<E, N>(digests, place, shape);
            }
        }
        let kv_head = sequence * n_kv_heads + head;
        let first_head = kv_head * shape.group;
        let queries = load_queries::<D, L, F, W, P>(query, first_head, shape);
        #[unroll]
        for p in 0..in_flight {
            // Of head `g` and pages `2 t` and `2 t + 1`.
            let mut of_pages = Vector::<f32, P>::new(0.0f32);
            if comptime!(D::SCALAR) {
                let deviations = of_both_pages::<P>(scalars[p], 0usize);
                of_pages = Vector::<f32, P>::new(queries.norm) * deviations;
            }
            let mut sum = no_sum::<P>();
            #[unroll]
            for v in 0..vectors {
                let at = comptime!(p * vectors + v);
                sum = multiply::<L, F, P, E, N>(&queries.first, rows[at], sum, v);
                if comptime!(D::ROWS == 2) {
                    sum = multiply::<L, F, P, E, N>(&queries.second, second_rows[at], sum, v);
                }
                if comptime!(L::SCALED) {
                    of_pages = fma(sum[0], of_both_pages::<P>(scales[p], v), of_pages);
                    sum = no_sum::<P>();
                }
            }
            of_pages += sum[0];
            #[unroll]
            for i in 0..PACKED {
                let page = first + p * COLUMNS + PACKED * t + i;
                let mut score = of_pages.extract(i);
                if comptime!(shape.shared) {
                    if comptime!(shape.rule != GroupRule::Max) {
                        score = select(g < shape.group, score, 0.0f32);
                    }
                    #[unroll]
                    for s in 0..3usize {
                        let other = plane_shuffle_xor(score, comptime!((LANES as u32) << s));
                        score = of_both(score, other, shape.rule);
                    }
                    score = of_group(score, shape.group, shape.rule);
                    if g == 0 && page < n_pages {
                        scores[kv_head * n_scores + page] = score;
                    }
                } else if g < shape.group && page < n_pages {
                    scores[(first_head + g) * n_scores + page] = score;
                }
            }
        }
    }
}
