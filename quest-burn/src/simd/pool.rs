use burn::backend::flex::FlexTensor;
pub(crate) use quest_burn_linear::flex::{floats, is_contiguous, primitive, tensor};

use super::{
    element::{Element, Widen},
    with_element,
};
use crate::cache::{CHANNELS_PER_WORD, Int8Rows, KvRows};

/// Pages `[n_pages, heads, rows, channels]`, in the cache's own memory.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a, E> {
    elements: &'a [E],
    heads: usize,
    rows: usize,
    channels: usize,
    /// Of each row, where rows have them.
    scales: &'a [f32],
}

impl<'a, E: Element> Pool<'a, E> {
    pub(crate) fn new(tensor: &'a FlexTensor) -> Self {
        let [_, heads, rows, channels] = tensor.layout().shape().dims::<4>();
        Self {
            elements: tensor.as_slice().expect("only contiguous pools are read"),
            heads,
            rows,
            channels,
            scales: &[],
        }
    }
}

impl<'a> Pool<'a, i8> {
    /// Rows in 8 bits.
    pub(crate) fn of_int8(words: &'a FlexTensor, scales: &'a FlexTensor) -> Self {
        let [_, heads, rows, row] = words.layout().shape().dims::<4>();
        let words: &[i32] = words.as_slice().expect("only contiguous pools are read");
        Self {
            elements: bytemuck::cast_slice(words),
            heads,
            rows,
            channels: row * CHANNELS_PER_WORD,
            scales: scales.as_slice().expect("only contiguous pools are read"),
        }
    }
}

impl<'a, E: Widen> Pool<'a, E> {
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// The rows of one head in one page.
    #[inline(always)]
    pub(crate) fn page(&self, page: usize, head: usize) -> &'a [E] {
        let n = self.rows * self.channels;
        &self.elements[(page * self.heads + head) * n..][..n]
    }

    /// The scales of one head's rows in one page; none where rows have no scales.
    #[inline(always)]
    pub(crate) fn scales(&self, page: usize, head: usize) -> &'a [f32] {
        if !E::SCALED {
            return &[];
        }
        &self.scales[(page * self.heads + head) * self.rows..][..self.rows]
    }
}

/// Work on the keys and values of a pool, whatever their elements.
pub(super) trait OnRows {
    /// What it gives.
    type Output;

    /// Does the work.
    fn run<E: Widen>(self, keys: Pool<'_, E>, values: Pool<'_, E>) -> Self::Output;
}

/// Does some work on keys and values that are kept in the same numbers.
///
/// # Panics
///
/// When they are not.
pub(super) fn on_rows<W: OnRows>(keys: &KvRows, values: &KvRows, work: W) -> W::Output {
    match (keys.clone(), values.clone()) {
        (KvRows::Full(keys), KvRows::Full(values)) => {
            let dtype = keys.dtype();
            let (keys, values) = (primitive(keys), primitive(values));
            with_element!(dtype, E => work.run(Pool::<E>::new(&keys), Pool::new(&values)))
        }
        (KvRows::Int8(keys), KvRows::Int8(values)) => {
            let [keys, values] = [keys, values]
                .map(|Int8Rows { words, scales }| (primitive(words), primitive(scales)));
            work.run(
                Pool::of_int8(&keys.0, &keys.1),
                Pool::of_int8(&values.0, &values.1),
            )
        }
        (keys, values) => panic!(
            "keys and values: expected the same storage, found {} and {}",
            keys.storage(),
            values.storage()
        ),
    }
}
