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
    with_element,
};
use crate::{
    PageSharing,
    cache::{
        CHANNELS_PER_SCALE, CHANNELS_PER_WORD, Int8Digests, LEAST_SCALE, LayerCache, OUTWARD,
        SCALE_OF_LARGEST, Step, n_scales,
    },
};

/// Whether this code reads such digests.
pub fn reads(digests: &Int8Digests) -> bool {
    // The bytes of a word are channels in their order.
    cfg!(target_endian = "little")
        && pool::is_contiguous(&digests.words)
        && pool::is_contiguous(&digests.scales)
}

/// Packs the digests of the pages that a step writes, in the cache's own memory unless something
/// else holds it.
pub fn quantize_digests(cache: &mut LayerCache, step: &Step) {
    let Some(packed) = cache.int8_digests.take() else {
        return;
    };
    let mut words = pool::primitive(packed.words);
    let mut scales = pool::primitive(packed.scales);
    let digests = pool::primitive(cache.digests.clone());
    let pages = (0..step.batch()).filter(|&sequence| step.new_tokens(sequence) > 0);
    let pages = pages.flat_map(|sequence| {
        let first = step.starts()[sequence] / step.page_size();
        let last = step.lengths()[sequence].div_ceil(step.page_size());
        &step.pages(sequence)[first..last]
    });
    with_element!(cache.digests.dtype(), E => {
        let digests = Pool::<E>::new(&digests);
        pack_pages(&mut words, &mut scales, digests, pages.map(|&page| page as usize));
    });
    cache.int8_digests = Some(Int8Digests {
        words: Tensor::from_primitive::<Flex>(words),
        scales: Tensor::from_primitive::<Flex>(scales),
    });
}

/// Packs every digest of a pool whose dtype [`super::supports`] allows.
pub fn quantized_pool(digests: Tensor<4>) -> Int8Digests {
    let [n_pages, n_kv_heads, _, head_dim] = digests.dims();
    let packed = Int8Digests::new(n_pages, n_kv_heads, head_dim, &digests.device());
    let mut words = pool::primitive(packed.words);
    let mut scales = pool::primitive(packed.scales);
    let dtype = digests.dtype();
    let digests = pool::primitive(digests).to_contiguous();
    with_element!(dtype, E => {
        pack_pages(&mut words, &mut scales, Pool::<E>::new(&digests), 0..n_pages);
    });
    Int8Digests {
        words: Tensor::from_primitive::<Flex>(words),
        scales: Tensor::from_primitive::<Flex>(scales),
    }
}

fn pack_pages<E: Element>(
    words: &mut FlexTensor,
    scales: &mut FlexTensor,
    digests: Pool<'_, E>,
    pages: impl Iterator<Item = usize>,
) {
    let [heads, n_pages, _, row] = words.layout().shape().dims::<4>();
    let (words, scales) = (elements::<i32>(words), elements::<f32>(scales));
    let of_page = scales.len() / (heads * n_pages);
    for page in pages {
        for head in 0..heads {
            let place = head * n_pages + page;
            pack(
                digests.page(page, head),
                &mut words[place * 2 * row..][..2 * row],
                &mut scales[place * of_page..][..of_page],
            );
        }
    }
}

/// Packs one digest, a row of minima and a row of maxima.
fn pack<E: Element>(digest: &[E], words: &mut [i32], scales: &mut [f32]) {
    let (low, high) = digest.split_at(digest.len() / 2);
    let (minima, maxima) = words.split_at_mut(words.len() / 2);
    let channels = low
        .chunks(CHANNELS_PER_SCALE)
        .zip(high.chunks(CHANNELS_PER_SCALE));
    let words = minima
        .chunks_mut(CHANNELS_PER_SCALE / CHANNELS_PER_WORD)
        .zip(maxima.chunks_mut(CHANNELS_PER_SCALE / CHANNELS_PER_WORD));
    for (((low, high), (minima, maxima)), scale) in channels.zip(words).zip(scales) {
        let both = low.iter().chain(high);
        let largest = both.fold(0.0, |largest: f32, x| largest.max(x.float().abs()));
        *scale = (largest * SCALE_OF_LARGEST).max(LEAST_SCALE);
        let pack = |row: &[E], words: &mut [i32], round: fn(f32) -> i8| {
            for (word, channels) in words.iter_mut().zip(row.chunks(CHANNELS_PER_WORD)) {
                let mut bytes = [0; CHANNELS_PER_WORD];
                for (byte, x) in bytes.iter_mut().zip(channels) {
                    *byte = round(x.float() / *scale).to_le_bytes()[0];
                }
                *word = i32::from_le_bytes(bytes);
            }
        };
        pack(low, minima, |x| (x - x.abs() * OUTWARD).floor() as i8);
        pack(high, maxima, |x| (x + x.abs() * OUTWARD).ceil() as i8);
    }
}

/// Packed digests in the cache's own memory.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    words: &'a [u32],
    scales: &'a [f32],
    n_pages: usize,
    heads: usize,
    head_dim: usize,
}

impl<'a> Packed<'a> {
    pub fn new(words: &'a FlexTensor, scales: &'a FlexTensor) -> Self {
        let [heads, n_pages, _, row] = words.layout().shape().dims::<4>();
        let signed: &[i32] = words.as_slice().expect("only contiguous pools are read");
        Self {
            words: bytemuck::cast_slice(signed),
            scales: scales.as_slice().expect("only contiguous pools are read"),
            n_pages,
            heads,
            head_dim: row * CHANNELS_PER_WORD,
        }
    }

    pub fn heads(&self) -> usize {
        self.heads
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Minima, maxima, and their scales.
    #[inline(always)]
    fn page(&self, page: usize, head: usize) -> (&'a [u32], &'a [u32], &'a [f32]) {
        let place = head * self.n_pages + page;
        let row = self.head_dim / CHANNELS_PER_WORD;
        let (low, high) = self.words[place * 2 * row..][..2 * row].split_at(row);
        let n = n_scales(self.head_dim);
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
pub fn score_pages<'a, S: Simd>(
    query: &[f32],
    packed: Packed<'a>,
    pages: &[u32],
    sharing: PageSharing,
) -> Vec<f32> {
    let head_dim = packed.head_dim();
    let group = query.len() / head_dim / packed.heads();
    let words = head_dim / CHANNELS_PER_WORD;
    let blocks = words.div_ceil(lanes::<S>());
    // What a query has for a block: its negative channels, which meet minima, and its positive
    // ones, both by their place in the word.
    const PARTS: usize = 2 * CHANNELS_PER_WORD;
    let mut arranged = vec![splat::<S>(0.0); query.len() / head_dim * blocks * PARTS];
    let of_query = blocks * PARTS * lanes::<S>();
    let numbers = flat_mut::<S>(&mut arranged);
    for (query, arranged) in query
        .chunks_exact(head_dim)
        .zip(numbers.chunks_exact_mut(of_query))
    {
        for (channel, &q) in query.iter().enumerate() {
            let (word, place) = (channel / CHANNELS_PER_WORD, channel % CHANNELS_PER_WORD);
            let (block, lane) = (word / lanes::<S>(), word % lanes::<S>());
            let at = |part: usize| {
                ((block * 2 + part) * CHANNELS_PER_WORD + place) * lanes::<S>() + lane
            };
            // NaN goes to both.
            arranged[at(0)] = if q > 0.0 { 0.0 } else { q };
            arranged[at(1)] = if q < 0.0 { 0.0 } else { q };
        }
    }

    let is_shared = sharing == PageSharing::KvHead;
    let lists_per_head = if is_shared { 1 } else { group };
    let mut scores = vec![f32::MIN; packed.heads() * lists_per_head * pages.len()];
    let mut sums = vec![splat::<S>(0.0); group];
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
            sums.fill(splat::<S>(0.0));
            for block in 0..blocks {
                let first = block * lanes::<S>();
                let low = integers::<S>(load_words::<S>(low, first));
                let high = integers::<S>(load_words::<S>(high, first));
                let scale = load_scales::<S>(scales, first);
                for (g, sum) in sums.iter_mut().enumerate() {
                    let query = &queries[(g * blocks + block) * PARTS..][..PARTS];
                    let mut minima = query[0] * low[0];
                    let mut maxima = query[CHANNELS_PER_WORD] * high[0];
                    for i in 1..CHANNELS_PER_WORD {
                        minima = query[i].mul_add(low[i], minima);
                        maxima = query[CHANNELS_PER_WORD + i].mul_add(high[i], maxima);
                    }
                    *sum = (minima + maxima).mul_add(scale, *sum);
                }
            }
            for (g, sum) in sums.iter().enumerate() {
                let score = sum.reduce_add();
                let list = if is_shared { 0 } else { g };
                let to = &mut scores[list * pages.len() + place];
                *to = if is_shared { to.max(score) } else { score };
            }
        }
    }
    scores
}
