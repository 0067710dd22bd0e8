use std::collections::BTreeMap;

use burn::{
    store::burn_pack::{Error, Tensor},
    tensor::{DType, TensorData},
};

use crate::{
    error::ModelError,
    source::{CheckpointSource, SourceTensor},
};

/// The tensors of a checkpoint by name, not yet read: floating-point numbers in `dtype` or their own, blocks
/// widened to f32 where none is given.
pub(super) fn all(
    source: &dyn CheckpointSource,
    dtype: Option<DType>,
) -> Result<Vec<Tensor>, ModelError> {
    let mut tensors = BTreeMap::<String, SourceTensor>::new();
    for tensor in source.tensors()? {
        let path = tensor.path.clone();
        if let Some(other) = tensors.insert(tensor.name.clone(), tensor) {
            return Err(ModelError::DuplicateTensor {
                path,
                other: other.path,
                name: other.name,
            });
        }
    }
    let plain = tensors.into_values().map(|tensor| {
        let plain = tensor.into_plain(dtype.unwrap_or(DType::F32));
        match dtype {
            Some(dtype) if plain.dtype != dtype && plain.dtype.is_float() => cast(plain, dtype),
            _ => plain,
        }
    });
    Ok(plain.collect())
}

/// Bytes of tensors.
pub(super) fn bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.byte_len() as u64).sum()
}

fn cast(tensor: Tensor, dtype: DType) -> Tensor {
    let (name, shape, stored) = (tensor.name.clone(), tensor.shape.clone(), tensor.dtype);
    let bytes = shape.iter().product::<usize>() * dtype.size();
    Tensor::deferred(name, dtype, shape.clone(), None, bytes, move || {
        let read = tensor.clone().into_bytes()?;
        let data = TensorData::from_bytes(read, shape.clone(), stored).convert_dtype(dtype);
        let cast = data.into_bytes();
        match cast.len() == bytes {
            true => Ok(cast),
            false => Err(Error::IoError("a cast tensor is of another size".into())),
        }
    })
}
