//! Tensors of the Flex backend, read where they lie.

use burn::{
    backend::{DispatchDevice, Flex, flex::FlexTensor},
    tensor::{BackendPrimitive, DType, Device, Tensor, TensorData, kind::Basic},
};

/// Whether tensors on this device are Flex's own.
///
/// An autodiff device is not, as native code has no backward pass.
pub fn runs_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

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
