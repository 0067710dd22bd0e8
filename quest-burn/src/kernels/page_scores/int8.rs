use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        launch::address_type,
        operands::Places,
        row::{RowLayout, dot, lanes_sum},
    },
    Scoring,
    int8_matrix::{self, MatrixScores},
    pages::{next_pages, pages_of, write_scores},
    plan::{Plan, ScoreShape},
};
use crate::{
    cache::{CHANNELS_PER_SCALE, CHANNELS_PER_WORD},
    digest::{DigestKind, KernelDigest, with_digest},
    pages::GroupRule,
};

/// Words that a unit loads at once, 16 bytes of them. They have one scale.
const WORDS: usize = 4;
const CHANNELS: usize = WORDS * CHANNELS_PER_WORD;

/// 0xff in the bytes of those channels of a word in which a query is negative.
#[cube]
fn negative_channels<N: Size>(q: Vector<f32, N>) -> i32 {
    let mut mask = i32::new(0);
    #[unroll]
    for i in 0..CHANNELS_PER_WORD {
        let byte = comptime!((0xff_u32 << (8 * i)) as i32);
        mask |= select(q.extract(i) < 0.0f32, byte, 0i32);
    }
    mask
}

/// `sum + q . integers` over the channels of a word, or with the squares of the integers.
#[cube]
fn dot_word<N: Size>(q: Vector<f32, N>, word: i32, sum: f32, #[comptime] squared: bool) -> f32 {
    let mut sum = sum;
    #[unroll]
    for i in 0..CHANNELS_PER_WORD {
        // Shifted up until the byte is on top, then down with its sign.
        let up = comptime!(24 - 8 * i as i32);
        let integer = (word << up) >> 24i32;
        let mut integer = f32::cast_from(integer);
        if comptime!(squared) {
            integer = integer * integer;
        }
        sum = fma(q.extract(i), integer, sum);
    }
    sum
}

/// Each lane's part of the products of `in_flight` pages, `[page, query head]`, and, where there are
/// any, of the products with squares; each digest is read once for all query heads of its group.
///
/// Of a bound `max(q_i * min_i, q_i * max_i)` the sign of `q_i` says which one it is, so bytes are
/// chosen by words and only half of them become numbers.
#[cube]
fn sums_of_pages<D: KernelDigest, F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    words: &Tensor<Vector<i32, N>>,
    scales: &Tensor<f32>,
    pool_pages: &Array<usize>,
    sequence: usize,
    head: usize,
    #[comptime] shape: ScoreShape,
) -> (Array<f32>, Array<f32>) {
    let ScoreShape {
        group,
        lanes,
        vectors,
        in_flight,
        ..
    } = comptime!(shape);
    let n_kv_heads = words.shape(0);
    let n_pool_pages = words.shape(1);
    let n_scales = scales.shape(2);
    let lane = UNIT_POS as usize % lanes;
    let row = comptime!(lanes * vectors);

    let mut low = Array::<Vector<i32, N>>::new(comptime!(in_flight * vectors));
    let mut high = Array::<Vector<i32, N>>::new(comptime!(in_flight * vectors));
    let mut steps = Array::<f32>::new(comptime!(in_flight * vectors));
    let mut scalars = Array::<f32>::new(in_flight);
    #[unroll]
    for p in 0..in_flight {
        let place = head * n_pool_pages + pool_pages[p];
        let digest = place * comptime!(D::ROWS * row) + lane;
        #[unroll]
        for v in 0..vectors {
            low[p * vectors + v] = words[digest + v * lanes];
            if comptime!(D::ROWS == 2) {
                high[p * vectors + v] = words[digest + row + v * lanes];
            }
            let of_channels = (v * lanes + lane) * CHANNELS / CHANNELS_PER_SCALE;
            steps[p * vectors + v] = scales[place * n_scales + of_channels];
        }
        if comptime!(D::SCALAR) {
            scalars[p] = scales[place * n_scales + n_scales - 1];
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
            let mut parts = Array::<f32>::new(in_flight);
            let mut square_parts = Array::<f32>::new(in_flight);
            #[unroll]
            for p in 0..in_flight {
                parts[p] = f32::new(0.0);
                square_parts[p] = f32::new(0.0);
            }
            let from = (query_head * row + v * lanes + lane) * WORDS;
            #[unroll]
            for w in 0..WORDS {
                let q = Vector::<f32, N>::cast_from(query[from + w]);
                if comptime!(D::SCALAR) {
                    norm = dot::<N>(q, q, norm, CHANNELS_PER_WORD);
                }
                if comptime!(D::IS_BOUND) {
                    let mask = negative_channels::<N>(q);
                    #[unroll]
                    for p in 0..in_flight {
                        let h = high[p * vectors + v].extract(w);
                        let l = low[p * vectors + v].extract(w);
                        let word = h ^ ((h ^ l) & mask);
                        parts[p] = dot_word::<N>(q, word, parts[p], false);
                    }
                } else {
                    let (first, second) = D::factors::<N>(q);
                    #[unroll]
                    for p in 0..in_flight {
                        let l = low[p * vectors + v].extract(w);
                        parts[p] = dot_word::<N>(first, l, parts[p], false);
                        if comptime!(D::SQUARED) {
                            let h = high[p * vectors + v].extract(w);
                            square_parts[p] = dot_word::<N>(second, h, square_parts[p], true);
                        }
                    }
                }
            }
            #[unroll]
            for p in 0..in_flight {
                let sum = sums[p * group + g];
                let step = steps[p * vectors + v];
                sums[p * group + g] = fma(parts[p], step, sum);
                if comptime!(D::SQUARED) {
                    let square = squares[p * group + g];
                    squares[p * group + g] = fma(square_parts[p] * step, step, square);
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
fn int8_page_scores_kernel<D: KernelDigest, F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    words: &Tensor<Vector<i32, N>>,
    scales: &Tensor<f32>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    scores: &mut Tensor<f32>,
    #[comptime] shape: ScoreShape,
    #[define(F)] _dtype: ElemType,
) {
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let first = CUBE_POS_X as usize * comptime!(shape.pages());
    let pool_pages = next_pages(page_table, words.shape(1), sequence, first, shape);
    let n_pages = pages_of(page_table, lengths, scores.shape(2), sequence, shape);
    if first < n_pages {
        let (mut sums, mut squares) =
            sums_of_pages::<D, F, N>(query, words, scales, &pool_pages, sequence, head, shape);
        write_scores::<D>(
            &mut sums,
            &mut squares,
            scores,
            words.shape(0),
            sequence,
            head,
            first,
            n_pages,
            shape,
        );
    }
}

/// Scores by digests in 8 bits.
pub(super) fn launch(
    query: CubeTensor,
    digest: DigestKind,
    [words, scales]: [CubeTensor; 2],
    places: Places<CubeBackend>,
    scoring: Scoring,
) -> CubeTensor {
    let words = into_contiguous(words);
    let scales = into_contiguous(scales);
    let n_kv_heads = words.meta.shape()[0];
    let head_dim = query.meta.shape()[2];
    let client = query.client.clone();
    let group = query.meta.shape()[1] / n_kv_heads;
    let by_matrix = MatrixScores::new(client.properties(), query.dtype, group, head_dim, scoring);
    let is_highest = scoring.rule.group_rule == GroupRule::Max;
    if let Some(shape) = by_matrix.filter(|_| digest == DigestKind::MinMax && is_highest) {
        return int8_matrix::launch(query, [words, scales], places, scoring.n_scores, shape);
    }
    let plane = client.properties().hardware.plane_size_min as usize;
    let layout = RowLayout::of_vectors(head_dim / CHANNELS, CHANNELS, plane);
    let Plan {
        shape,
        cubes,
        dim,
        scores,
    } = Plan::new(&query, &layout, n_kv_heads, digest, scoring);
    let address = address_type(&[&words, &scores]);
    let dtype = dtype_to_storage_type(query.dtype);
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    with_digest!(digest, D => unsafe {
        int8_page_scores_kernel::launch_unchecked::<D>(
            &client,
            cubes,
            dim,
            address,
            WORDS,
            query.into_tensor_arg(),
            words.into_tensor_arg(),
            scales.into_tensor_arg(),
            places.page_table.into_tensor_arg(),
            places.lengths.into_tensor_arg(),
            scores.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    });
    scores
}
