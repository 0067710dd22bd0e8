use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};

use super::{element::Element, pool::primitive, with_element};
use crate::cache::{LayerCache, Step};

/// [`crate::ops::append`], in the cache's own memory unless something else holds it.
pub fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    let dtype = cache.keys.dtype();
    let mut pools = [&mut cache.keys, &mut cache.values, &mut cache.digests]
        .map(|pool| primitive(pool.extract()));
    with_element!(dtype, E => append_rows::<E>(&mut pools, keys, values, step));
    let [keys, values, digests] = pools.map(Tensor::from_primitive::<Flex>);
    (cache.keys, cache.values, cache.digests) = (keys, values, digests);
}

fn append_rows<E: Element>(
    [keys, values, digests]: &mut [FlexTensor; 3],
    new_keys: Tensor<4>,
    new_values: Tensor<4>,
    step: &Step,
) {
    let [_, heads, page_size, head_dim] = keys.layout().shape().dims::<4>();
    let (new_keys, new_values) = (NewRows::new(new_keys), NewRows::new(new_values));
    let (keys, values, digests) = (elements(keys), elements(values), elements(digests));
    for sequence in 0..step.batch() {
        let (start, end) = (step.starts()[sequence], step.lengths()[sequence]);
        for position in start..end {
            let page = step.pages(sequence)[position / page_size] as usize;
            let row = position % page_size;
            for head in 0..heads {
                let slot = page * heads + head;
                let at = (slot * page_size + row) * head_dim;
                let key = new_keys.row::<E>(sequence, head, position - start);
                let value = new_values.row::<E>(sequence, head, position - start);
                keys[at..at + head_dim].copy_from_slice(key);
                values[at..at + head_dim].copy_from_slice(value);
                let digest = &mut digests[slot * 2 * head_dim..][..2 * head_dim];
                fold(digest, key, row == 0);
            }
        }
    }
}

/// Takes a key into the digest of its page; the first key of a page begins it anew.
fn fold<E: Element>(digest: &mut [E], key: &[E], is_first: bool) {
    let (low, high) = digest.split_at_mut(key.len());
    if is_first {
        low.copy_from_slice(key);
        high.copy_from_slice(key);
        return;
    }
    for ((low, high), &key) in low.iter_mut().zip(high).zip(key) {
        let x = key.float();
        // A NaN stays, whichever side it is on.
        if x < low.float() || x.is_nan() {
            *low = key;
        }
        if x > high.float() || x.is_nan() {
            *high = key;
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

    fn row<E: Element>(&self, sequence: usize, head: usize, token: usize) -> &[E] {
        let at = [sequence, head, token]
            .iter()
            .zip(self.strides)
            .map(|(&i, stride)| i * stride)
            .sum::<usize>();
        &self.tensor.storage()[self.tensor.layout().start_offset() + at..][..self.head_dim]
    }
}
