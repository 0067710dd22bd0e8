use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::{BackendPrimitive, DType, Device, Tensor, TensorData, kind::Basic},
};

use super::element::Element;

/// The primitive of a tensor that is known to be Flex's.
pub fn primitive<const D: usize, K>(tensor: Tensor<D, K>) -> FlexTensor
where
    K: Basic + BackendPrimitive<Flex, Primitive = FlexTensor>,
{
    tensor
        .try_into_primitive::<Flex>()
        .expect("a tensor on the Flex device")
}

/// Whether rows lie one after the other.
pub fn is_contiguous<const D: usize, K>(tensor: &Tensor<D, K>) -> bool
where
    K: Basic + BackendPrimitive<Flex, Primitive = FlexTensor>,
{
    primitive(tensor.clone()).is_contiguous()
}

/// The elements of a tensor in f32, row-major.
pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let tensor = primitive(tensor.cast(DType::F32)).to_contiguous();
    let elements = tensor.as_slice::<f32>();
    elements.expect("it was made contiguous").to_vec()
}

/// A tensor of f32 values.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// Pages `[n_pages, heads, rows, channels]`, in the cache's own memory.
#[derive(Clone, Copy)]
pub struct Pool<'a, E> {
    elements: &'a [E],
    heads: usize,
    rows: usize,
    channels: usize,
}

impl<'a, E: Element> Pool<'a, E> {
    pub fn new(tensor: &'a FlexTensor) -> Self {
        let [_, heads, rows, channels] = tensor.layout().shape().dims::<4>();
        Self {
            elements: tensor.as_slice().expect("only contiguous pools are read"),
            heads,
            rows,
            channels,
        }
    }

    pub fn heads(&self) -> usize {
        self.heads
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The rows of one head in one page.
    #[inline(always)]
    pub fn page(&self, page: usize, head: usize) -> &'a [E] {
        let n = self.rows * self.channels;
        &self.elements[(page * self.heads + head) * n..][..n]
    }
}
