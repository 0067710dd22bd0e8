use std::marker::PhantomData;

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};
use macerator::{Scalar, Simd, Vector};

use super::{
    append::elements,
    element::Element,
    lanes::{Floats, flat_mut, lanes, load, prefetch, splat},
    pool,
    pool::Pool,
    scores::{Scored, norm},
    with_element,
};
use crate::{
    cache::{
        CHANNELS_PER_SCALE, CHANNELS_PER_WORD, Digests, Int8Digests, LayerCache, MIN_SCALE,
        OUTWARD, SCALE_OF_LARGEST, Step, n_scales,
    },
    digest::{NativeDigest, with_digest},
};

/// Whether this code reads such digests.
pub(super) fn reads(digests: &Int8Digests) -> bool {
    pool::is_contiguous(&digests.words) && pool::is_contiguous(&digests.scales)
}

/// Packs the digests of the pages that a step writes, in the cache's own memory unless something
/// else holds it.
pub(crate) fn quantize_digests(cache: &mut LayerCache, step: &Step) {
    let Some(packed) = cache.pool.digests.int8.take() else {
        return;
    };
    let mut words = pool::primitive(packed.words);
    let mut scales = pool::primitive(packed.scales);
    let digests = pool::primitive(cache.pool.digests.rows.clone());
    let pages = (0..step.batch()).filter(|&sequence| step.new_tokens(sequence) > 0);
    let pages = pages.flat_map(|sequence| {
        let first = step.starts()[sequence] / step.page_size();
        let last = step.lengths()[sequence].div_ceil(step.page_size());
        &step.pages(sequence)[first..last]
    });
    let pages = pages.map(|&page| page as usize);
    with_element!(cache.pool.digests.rows.dtype(), E => {
        let digests = Pool::<E>::new(&digests);
        with_digest!(cache.pool.digests.kind, D => {
            pack_pages::<E, D>(&mut words, &mut scales, digests, pages);
        });
    });
    cache.pool.digests.int8 = Some(Int8Digests {
        words: Tensor::from_primitive::<Flex>(words),
        scales: Tensor::from_primitive::<Flex>(scales),
    });
}

/// Packs every digest of a pool whose dtype [`super::supports`] allows.
pub(crate) fn packed(digests: Digests, head_dim: usize) -> Digests {
    let Digests { kind, rows, .. } = digests;
    let [n_pages, n_kv_heads, _, _] = rows.dims();
    let packed = Int8Digests::new(kind, n_pages, n_kv_heads, head_dim, &rows.device());
    let mut words = pool::primitive(packed.words);
    let mut scales = pool::primitive(packed.scales);
    let elements = pool::primitive(rows.clone()).to_contiguous();
    with_element!(rows.dtype(), E => {
        let digests = Pool::<E>::new(&elements);
        with_digest!(kind, D => {
            pack_pages::<E, D>(&mut words, &mut scales, digests, 0..n_pages);
        });
    });
    let int8 = Int8Digests {
        words: Tensor::from_primitive::<Flex>(words),
        scales: Tensor::from_primitive::<Flex>(scales),
    };
    Digests {
        kind,
        rows,
        int8: Some(int8),
    }
}

fn pack_pages<E: Element, D: NativeDigest>(
    words: &mut FlexTensor,
    scales: &mut FlexTensor,
    digests: Pool<'_, E>,
    pages: impl Iterator<Item = usize>,
) {
    let [heads, n_pages, rows, row] = words.layout().shape().dims::<4>();
    let (words, scales) = (elements::<i32>(words), elements::<f32>(scales));
    let of_page = scales.len() / (heads * n_pages);
    for page in pages {
        for head in 0..heads {
            let place = head * n_pages + page;
            pack::<E, D>(
                digests.page(page, head),
                &mut words[place * rows * row..][..rows * row],
                &mut scales[place * of_page..][..of_page],
            );
        }
    }
}

/// Packs one digest.
fn pack<E: Element, D: NativeDigest>(digest: &[E], words: &mut [i32], scales: &mut [f32]) {
    let row = words.len() / D::ROWS;
    let head_dim = row * CHANNELS_PER_WORD;
    let n_scales = n_scales(head_dim);
    for (group, scale) in scales[..n_scales].iter_mut().enumerate() {
        let first = group * CHANNELS_PER_SCALE;
        let channels = first..head_dim.min(first + CHANNELS_PER_SCALE);
        let of_row = |i: usize| &digest[i * head_dim..][channels.clone()];
        let all = (0..D::ROWS).flat_map(of_row);
        let largest = all.fold(0.0, |largest: f32, x| largest.max(x.float().abs()));
        *scale = (largest * SCALE_OF_LARGEST).max(MIN_SCALE);
        for i in 0..D::ROWS {
            let round: fn(f32) -> f32 = match (D::IS_BOUND, i) {
                (true, 0) => |x| (x - x.abs() * OUTWARD).floor(),
                (true, _) => |x| (x + x.abs() * OUTWARD).ceil(),
                (false, _) => |x| (x + 0.5).floor(),
            };
            let words = &mut words[i * row + first / CHANNELS_PER_WORD..];
            let channels = of_row(i).chunks_exact(CHANNELS_PER_WORD);
            for (word, channels) in words.iter_mut().zip(channels) {
                let mut bytes = [0; CHANNELS_PER_WORD];
                for (byte, x) in bytes.iter_mut().zip(channels) {
                    *byte = (round(x.float() / *scale) as i8).to_le_bytes()[0];
                }
                *word = i32::from_le_bytes(bytes);
            }
        }
    }
    if D::SCALAR {
        scales[n_scales] = digest[D::ROWS * head_dim].float();
    }
}

/// Packed digests in the cache's own memory.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    words: &'a [u32],
    scales: &'a [f32],
    n_pages: usize,
    heads: usize,
    rows: usize,
    head_dim: usize,
    n_scales: usize,
}

impl<'a> Packed<'a> {
    pub(super) fn new(words: &'a FlexTensor, scales: &'a FlexTensor) -> Self {
        let [heads, n_pages, rows, row] = words.layout().shape().dims::<4>();
        let [_, _, n_scales] = scales.layout().shape().dims::<3>();
        let signed: &[i32] = words.as_slice().expect("only contiguous pools are read");
        Self {
            words: bytemuck::cast_slice(signed),
            scales: scales.as_slice().expect("only contiguous pools are read"),
            n_pages,
            heads,
            rows,
            head_dim: row * CHANNELS_PER_WORD,
            n_scales,
        }
    }

    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The first row, the second one, if there is one, and the scales.
    #[inline(always)]
    fn page(&self, page: usize, head: usize) -> (&'a [u32], &'a [u32], &'a [f32]) {
        let place = head * self.n_pages + page;
        let row = self.head_dim / CHANNELS_PER_WORD;
        let (low, high) = self.words[place * self.rows * row..][..self.rows * row].split_at(row);
        let n = self.n_scales;
        (low, high, &self.scales[place * n..][..n])
    }
}

/// Channels of a vector of words, by their place in the word.
type Integers<S> = [Floats<S>; CHANNELS_PER_WORD];

/// The integers of words.
#[inline(always)]
fn integers<S: Simd>(words: Vector<S, u32>) -> Integers<S> {
    // A byte plus 128 as the lowest bits of 2^23, whose unit is 1.
    const TWO_TO_23: f32 = (1 << 23) as f32;
    let positive = words ^ 0x8080_8080_u32.splat();
    let exponent = TWO_TO_23.to_bits().splat::<S>();
    let byte = 0xff_u32.splat::<S>();
    let zero = splat::<S>(TWO_TO_23 + 128.0);
    [
        ((positive & byte) | exponent).reinterpret::<f32>() - zero,
        (((positive >> 8) & byte) | exponent).reinterpret::<f32>() - zero,
        (((positive >> 16) & byte) | exponent).reinterpret::<f32>() - zero,
        ((positive >> 24) | exponent).reinterpret::<f32>() - zero,
    ]
}

/// Widest vectors of words.
const MAX_LANES: usize = 16;

/// The words from `first` on, zeros past the end.
#[inline(always)]
fn load_words<S: Simd>(words: &[u32], first: usize) -> Vector<S, u32> {
    let words = &words[first..];
    if words.len() >= lanes::<S>() {
        return load(words);
    }
    let mut padded = [0; MAX_LANES];
    padded[..words.len()].copy_from_slice(words);
    load(&padded)
}

/// The scale of each word from `first` on.
#[inline(always)]
fn load_scales<S: Simd>(scales: &[f32], first: usize) -> Floats<S> {
    const WORDS: usize = CHANNELS_PER_SCALE / CHANNELS_PER_WORD;
    let last = scales.len() - 1;
    if lanes::<S>() <= WORDS {
        return splat(scales[(first / WORDS).min(last)]);
    }
    let mut of_words = [0.0; MAX_LANES];
    for (i, words) in of_words.chunks_exact_mut(WORDS).enumerate() {
        words.fill(scales[(first / WORDS + i).min(last)]);
    }
    load(&of_words)
}

/// Scores `[lists, pages]` of pages, as [`super::scores`] has them.
///
/// Integers are widened once for all query heads of a group, and their scale is multiplied with
/// the sums of a vector of words.
#[macerator::with_simd]
pub fn score_pages<'a, S: Simd, D: NativeDigest>(
    query: &[f32],
    packed: Packed<'a>,
    pages: &[u32],
    scored: Scored,
    _digest: PhantomData<D>,
) -> Vec<f32> {
    let head_dim = packed.head_dim();
    let group = query.len() / head_dim / packed.heads();
    let words = head_dim / CHANNELS_PER_WORD;
    let blocks = words.div_ceil(lanes::<S>());
    // What a query has for a block: the factors of the first row's channels, and those of the
    // second row's, both by their place in the word.
    const PARTS: usize = 2 * CHANNELS_PER_WORD;
    let mut arranged = vec![splat::<S>(0.0); query.len() / head_dim * blocks * PARTS];
    let of_query = blocks * PARTS * lanes::<S>();
    let numbers = flat_mut::<S>(&mut arranged);
    let queries = query.chunks_exact(head_dim);
    for (query, arranged) in queries.clone().zip(numbers.chunks_exact_mut(of_query)) {
        for (channel, &q) in query.iter().enumerate() {
            let (word, place) = (channel / CHANNELS_PER_WORD, channel % CHANNELS_PER_WORD);
            let (block, lane) = (word / lanes::<S>(), word % lanes::<S>());
            for (row, factor) in D::factors(q).into_iter().enumerate() {
                let part = (block * 2 + row) * CHANNELS_PER_WORD + place;
                arranged[part * lanes::<S>() + lane] = factor;
            }
        }
    }
    let norms = queries.map(norm).collect::<Vec<_>>();

    let is_shared = scored.scoring.is_shared();
    let lists_per_head = scored.scoring.lists(group, 1);
    let mut scores = vec![scored.start(); packed.heads() * lists_per_head * pages.len()];
    let mut products = vec![splat::<S>(0.0); group];
    let mut squares = vec![splat::<S>(0.0); group];
    let n_scales = n_scales(head_dim);
    for head in 0..packed.heads() {
        let queries = &arranged[head * group * blocks * PARTS..][..group * blocks * PARTS];
        let scores = &mut scores[head * lists_per_head * pages.len()..];
        for (place, &page) in pages.iter().enumerate() {
            // A few pages ahead: one takes less time than memory does.
            if let Some(&next) = pages.get(place + 4) {
                let (low, high, scales) = packed.page(next as usize, head);
                prefetch(low);
                prefetch(high);
                prefetch(scales);
            }
            let (low, high, scales) = packed.page(page as usize, head);
            products.fill(splat::<S>(0.0));
            squares.fill(splat::<S>(0.0));
            for block in 0..blocks {
                let first = block * lanes::<S>();
                let scale = load_scales::<S>(&scales[..n_scales], first);
                let low = integers::<S>(load_words::<S>(low, first));
                let mut second = low;
                if D::ROWS == 2 {
                    second = integers::<S>(load_words::<S>(high, first));
                }
                if D::SQUARED {
                    for channels in &mut second {
                        *channels = *channels * *channels;
                    }
                }
                for g in 0..group {
                    let query = &queries[(g * blocks + block) * PARTS..][..PARTS];
                    let mut of_first = query[0] * low[0];
                    for i in 1..CHANNELS_PER_WORD {
                        of_first = query[i].mul_add(low[i], of_first);
                    }
                    if D::ROWS == 2 {
                        let query = &query[CHANNELS_PER_WORD..];
                        let mut of_second = query[0] * second[0];
                        for i in 1..CHANNELS_PER_WORD {
                            of_second = query[i].mul_add(second[i], of_second);
                        }
                        if D::SQUARED {
                            squares[g] = (of_second * scale).mul_add(scale, squares[g]);
                        } else {
                            of_first += of_second;
                        }
                    }
                    products[g] = of_first.mul_add(scale, products[g]);
                }
            }
            let scalar = if D::SCALAR { scales[n_scales] } else { 0.0 };
            for g in 0..group {
                let score = D::score(
                    products[g].reduce_add(),
                    squares[g].reduce_add(),
                    norms[head * group + g],
                    scalar,
                    scored.deviations,
                );
                let list = if is_shared { 0 } else { g };
                let to = &mut scores[list * pages.len() + place];
                scored.add(to, score, group);
            }
        }
    }
    scores
}
