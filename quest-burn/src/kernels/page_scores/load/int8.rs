use cubecl::prelude::*;

use super::{
    super::{super::row::dot, plan::ScoreShape},
    DigestLoad, DigestsArg, Loaded, Sums,
};
use crate::{
    cache::{CHANNELS_PER_SCALE, CHANNELS_PER_WORD},
    digest::KernelDigest,
};

/// Words that a unit loads at once, 16 bytes of them. They have one scale.
pub(in super::super) const WIDTH: usize = 4;
const CHANNELS: usize = WIDTH * CHANNELS_PER_WORD;

/// Digests in 8 bits: words `[n_kv_heads, n_pages, rows, head_dim / 4]`, and scales.
///
/// Of a bound `max(q_i * min_i, q_i * max_i)` the sign of `q_i` says which one it is, so bytes are
/// chosen by words and only half of them become numbers.
pub(in super::super) struct Int8;

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

/// A word of a load.
#[cube]
fn word<E: Numeric, N: Size>(words: Vector<E, N>, #[comptime] index: usize) -> i32 {
    i32::reinterpret(words.extract(index))
}

#[cube]
impl DigestLoad for Int8 {
    fn pool<E: Numeric, N: Size>(digests: &DigestsArg<E, N>) -> (usize, usize) {
        (digests.rows.shape(1), digests.rows.shape(0))
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
        let n_pool_pages = digests.rows.shape(1);
        let lane = UNIT_POS as usize % lanes;
        let row = comptime!(lanes * vectors);
        let mut first = Array::<Vector<E, N>>::new(comptime!(in_flight * vectors));
        let mut second = Array::<Vector<E, N>>::new(comptime!(in_flight * vectors));
        let mut scales = Array::<f32>::new(comptime!(in_flight * vectors));
        let mut scalars = Array::<f32>::new(in_flight);
        #[comptime]
        if let ComptimeOption::Some(stored) = &digests.scales {
            let n_scales = stored.shape(2);
            #[unroll]
            for p in 0..in_flight {
                let place = head * n_pool_pages + pool_pages[p];
                let digest = place * of_digest + lane;
                #[unroll]
                for v in 0..vectors {
                    first[p * vectors + v] = digests.rows[digest + v * lanes];
                    if comptime!(D::ROWS == 2) {
                        second[p * vectors + v] = digests.rows[digest + row + v * lanes];
                    }
                    let of_channels = (v * lanes + lane) * CHANNELS / CHANNELS_PER_SCALE;
                    scales[p * vectors + v] = stored[place * n_scales + of_channels];
                }
                if comptime!(D::SCALAR) {
                    scalars[p] = stored[place * n_scales + n_scales - 1];
                }
            }
        }
        Loaded::<E, N> {
            first,
            second,
            scales,
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
            in_flight,
            ..
        } = comptime!(shape);
        let lane = UNIT_POS as usize % lanes;
        let row = comptime!(lanes * vectors);
        let mut norm = norm;
        let mut products = Array::<f32>::new(in_flight);
        let mut squares = Array::<f32>::new(in_flight);
        #[unroll]
        for p in 0..in_flight {
            products[p] = f32::new(0.0);
            squares[p] = f32::new(0.0);
        }
        let from = (query_head * row + vector * lanes + lane) * WIDTH;
        #[unroll]
        for w in 0..WIDTH {
            let q = Vector::<f32, N>::cast_from(query[from + w]);
            if comptime!(D::SCALAR) {
                norm = dot::<N>(q, q, norm, CHANNELS_PER_WORD);
            }
            if comptime!(D::IS_BOUND) {
                let mask = negative_channels::<N>(q);
                #[unroll]
                for p in 0..in_flight {
                    let maxima = word::<E, N>(loaded.second[p * vectors + vector], w);
                    let minima = word::<E, N>(loaded.first[p * vectors + vector], w);
                    let chosen = maxima ^ ((maxima ^ minima) & mask);
                    products[p] = dot_word::<N>(q, chosen, products[p], false);
                }
            } else {
                let (with_first, with_second) = D::factors::<N>(q);
                #[unroll]
                for p in 0..in_flight {
                    let first = word::<E, N>(loaded.first[p * vectors + vector], w);
                    products[p] = dot_word::<N>(with_first, first, products[p], false);
                    if comptime!(D::SQUARED) {
                        let second = word::<E, N>(loaded.second[p * vectors + vector], w);
                        squares[p] = dot_word::<N>(with_second, second, squares[p], true);
                    }
                }
            }
        }
        #[unroll]
        for p in 0..in_flight {
            let at = comptime!(p * group + member);
            let scale = loaded.scales[p * vectors + vector];
            sums.products[at] = fma(products[p], scale, sums.products[at]);
            if comptime!(D::SQUARED) {
                sums.squares[at] = fma(squares[p] * scale, scale, sums.squares[at]);
            }
        }
        norm
    }
}
