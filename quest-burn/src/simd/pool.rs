use burn::backend::flex::FlexTensor;
pub(crate) use quest_burn_linear::flex::{floats, is_contiguous, primitive, tensor};

use super::element::Element;

/// Pages `[n_pages, heads, rows, channels]`, in the cache's own memory.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a, E> {
    elements: &'a [E],
    heads: usize,
    rows: usize,
    channels: usize,
}

impl<'a, E: Element> Pool<'a, E> {
    pub(crate) fn new(tensor: &'a FlexTensor) -> Self {
        let [_, heads, rows, channels] = tensor.layout().shape().dims::<4>();
        Self {
            elements: tensor.as_slice().expect("only contiguous pools are read"),
            heads,
            rows,
            channels,
        }
    }

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
}
