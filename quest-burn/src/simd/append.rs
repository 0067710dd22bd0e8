use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};

use super::{element::Element, pool::primitive, with_element};
use crate::{
    cache::{LayerCache, Step},
    digest::{NativeDigest, with_digest},
};

/// [`crate::ops::append`], in the cache's own memory unless something else holds it.
pub(crate) fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    let (dtype, digest) = (cache.pool.keys.dtype(), cache.pool.digests.kind);
    let mut pools = [
        &mut cache.pool.keys,
        &mut cache.pool.values,
        &mut cache.pool.digests.rows,
    ]
    .map(|pool| primitive(pool.extract()));
    with_element!(dtype, E => {
        append_rows::<E>(&mut pools, keys, values, step);
        with_digest!(digest, D => fold_pages::<E, D>(&mut pools, step));
    });
    let [keys, values, digests] = pools.map(Tensor::from_primitive::<Flex>);
    (cache.pool.keys, cache.pool.values, cache.pool.digests.rows) = (keys, values, digests);
}

fn append_rows<E: Element>(
    [keys, values, _]: &mut [FlexTensor; 3],
    new_keys: Tensor<4>,
    new_values: Tensor<4>,
    step: &Step,
) {
    let [_, heads, page_size, head_dim] = keys.layout().shape().dims::<4>();
    let (new_keys, new_values) = (NewRows::new(new_keys), NewRows::new(new_values));
    let (keys, values) = (elements(keys), elements(values));
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
            }
        }
    }
}

/// Makes the digests of the pages that a step writes, of all keys that they hold.
fn fold_pages<E: Element, D: NativeDigest>([keys, _, digests]: &mut [FlexTensor; 3], step: &Step) {
    let [_, heads, page_size, head_dim] = keys.layout().shape().dims::<4>();
    let [_, _, rows, channels] = digests.layout().shape().dims::<4>();
    let keys: &[E] = keys.as_slice().expect("only contiguous pools are written");
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
            for slot in pool_page * heads..(pool_page + 1) * heads {
                let keys = &keys[slot * page_size * head_dim..][..held];
                for (wide, key) in wide.iter_mut().zip(keys) {
                    *wide = key.float();
                }
                D::fold_page(&wide[..held], head_dim, &mut digest);
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

    fn row<E: Element>(&self, sequence: usize, head: usize, token: usize) -> &[E] {
        let at = [sequence, head, token]
            .iter()
            .zip(self.strides)
            .map(|(&i, stride)| i * stride)
            .sum::<usize>();
        &self.tensor.storage()[self.tensor.layout().start_offset() + at..][..self.head_dim]
    }
}
