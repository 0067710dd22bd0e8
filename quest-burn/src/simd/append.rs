use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};

use super::{
    element::{Element, Widen},
    pool::{Pool, primitive},
    with_element,
};
use crate::{
    cache::{KvRows, LARGEST_INTEGER, LayerCache, MIN_SCALE, Step},
    digest::{NativeDigest, with_digest},
};

/// [`crate::ops::append`], in the cache's own memory unless something else holds it.
pub(crate) fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    let pool = &mut cache.pool;
    let digest = pool.digests.kind;
    with_element!(pool.dtype(), E => {
        append_rows::<E>(&mut pool.keys, &NewRows::new(keys), step);
        append_rows::<E>(&mut pool.values, &NewRows::new(values), step);
        let mut digests = primitive(pool.digests.rows.extract());
        with_digest!(digest, D => match &pool.keys {
            KvRows::Full(keys) => {
                let keys = primitive(keys.clone());
                fold_pages::<E, E, D>(Pool::new(&keys), &mut digests, step);
            }
            KvRows::Int8(keys) => {
                let (words, scales) = (primitive(keys.words.clone()), primitive(keys.scales.clone()));
                fold_pages::<i8, E, D>(Pool::of_int8(&words, &scales), &mut digests, step);
            }
        });
        pool.digests.rows = Tensor::from_primitive::<Flex>(digests);
    });
}

/// Writes the rows of new tokens to their places, rounded where rows are kept in 8 bits.
fn append_rows<E: Element>(rows: &mut KvRows, new: &NewRows, step: &Step) {
    let [_, heads, page_size, head_dim] = rows.dims();
    match rows {
        KvRows::Full(rows) => {
            let mut pool = primitive(rows.extract());
            let elements = elements::<E>(&mut pool);
            for_each_row(step, heads, page_size, |place, row| {
                elements[place * head_dim..][..head_dim].copy_from_slice(new.row::<E>(row));
            });
            *rows = Tensor::from_primitive::<Flex>(pool);
        }
        KvRows::Int8(rows) => {
            let mut words = primitive(rows.words.extract());
            let mut scales = primitive(rows.scales.extract());
            let (to_words, to_scales) = (elements::<i32>(&mut words), elements::<f32>(&mut scales));
            let integers: &mut [i8] = bytemuck::cast_slice_mut(to_words);
            for_each_row(step, heads, page_size, |place, row| {
                let integers = &mut integers[place * head_dim..][..head_dim];
                to_scales[place] = quantize(new.row::<E>(row), integers);
            });
            rows.words = Tensor::from_primitive::<Flex>(words);
            rows.scales = Tensor::from_primitive::<Flex>(scales);
        }
    }
}

/// Each row that a step adds: its place among the rows of a pool, and which sequence, head and token it is of.
fn for_each_row(
    step: &Step,
    heads: usize,
    page_size: usize,
    mut write: impl FnMut(usize, [usize; 3]),
) {
    for sequence in 0..step.batch() {
        let (start, end) = (step.starts()[sequence], step.lengths()[sequence]);
        for position in start..end {
            let page = step.pages(sequence)[position / page_size] as usize;
            for head in 0..heads {
                let place = (page * heads + head) * page_size + position % page_size;
                write(place, [sequence, head, position - start]);
            }
        }
    }
}

/// Rounds a row to the nearest integers, and gives their scale.
fn quantize<E: Element>(row: &[E], integers: &mut [i8]) -> f32 {
    // A row with a channel that is not a number has no scale.
    if row.iter().any(|x| x.float().is_nan()) {
        integers.fill(0);
        return f32::NAN;
    }
    let largest = (row.iter()).fold(0.0_f32, |largest, x| largest.max(x.float().abs()));
    let scale = (largest / LARGEST_INTEGER).max(MIN_SCALE);
    for (integer, x) in integers.iter_mut().zip(row) {
        *integer = (x.float() / scale + 0.5).floor() as i8;
    }
    scale
}

/// Makes the digests of the pages that a step writes, of all keys that they hold, as they are kept.
fn fold_pages<K: Widen, E: Element, D: NativeDigest>(
    keys: Pool<'_, K>,
    digests: &mut FlexTensor,
    step: &Step,
) {
    let (heads, page_size, head_dim) = (keys.heads(), keys.rows(), keys.channels());
    let [_, _, rows, channels] = digests.layout().shape().dims::<4>();
    let digests = elements::<E>(digests);
    let mut wide = vec![0.0; page_size * head_dim];
    let mut digest = vec![0.0; rows * channels];
    for sequence in 0..step.batch() {
        if step.new_tokens(sequence) == 0 {
            continue;
        }
        let (start, end) = (step.starts()[sequence], step.lengths()[sequence]);
        for page in start / page_size..end.div_ceil(page_size) {
            let held = (end - page * page_size).min(page_size) * head_dim;
            let pool_page = step.pages(sequence)[page] as usize;
            for head in 0..heads {
                for (wide, key) in wide.iter_mut().zip(&keys.page(pool_page, head)[..held]) {
                    *wide = key.float();
                }
                let scales = keys.scales(pool_page, head);
                for (row, scale) in wide[..held].chunks_exact_mut(head_dim).zip(scales) {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
                D::fold_page(&wide[..held], head_dim, &mut digest);
                let slot = pool_page * heads + head;
                let stored = &mut digests[slot * digest.len()..][..digest.len()];
                for (stored, &x) in stored.iter_mut().zip(&digest) {
                    *stored = E::rounded(x);
                }
            }
        }
    }
}

/// The elements of a pool, to write to. They are copied first when something else holds them.
pub(super) fn elements<E: burn::backend::Element + bytemuck::Pod>(
    pool: &mut FlexTensor,
) -> &mut [E] {
    let range = pool.layout().contiguous_offsets();
    let (start, end) = range.expect("only contiguous pools are written");
    &mut pool.storage_mut::<E>()[start..end]
}

/// Rows `[batch, heads, tokens, head_dim]` of new tokens.
struct NewRows {
    tensor: FlexTensor,
    strides: [usize; 3],
    head_dim: usize,
}

impl NewRows {
    fn new(tensor: Tensor<4>) -> Self {
        let mut tensor = primitive(tensor);
        let is_by_rows = |tensor: &FlexTensor| {
            let strides = tensor.layout().strides();
            strides[3] == 1 && strides.iter().all(|&stride| stride >= 0)
        };
        if !is_by_rows(&tensor) {
            tensor = tensor.to_contiguous();
        }
        let [_, _, _, head_dim] = tensor.layout().shape().dims::<4>();
        let strides = tensor.layout().strides();
        Self {
            strides: [0, 1, 2].map(|axis| strides[axis] as usize),
            head_dim,
            tensor,
        }
    }

    /// The row of a sequence, head and token.
    fn row<E: Element>(&self, place: [usize; 3]) -> &[E] {
        let at = place
            .iter()
            .zip(self.strides)
            .map(|(&i, stride)| i * stride)
            .sum::<usize>();
        &self.tensor.storage()[self.tensor.layout().start_offset() + at..][..self.head_dim]
    }
}
