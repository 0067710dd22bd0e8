use burn::tensor::{Tensor, kind::Basic};

/// Laid one after the other along the first axis, in one piece of memory.
pub(super) fn joined<const D: usize, K: Basic>(mut parts: Vec<Tensor<D, K>>) -> Tensor<D, K> {
    let joined = match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    };
    // A transposed or pitched tensor is laid out again; any other is as it was.
    let shape = joined.dims();
    joined
        .reshape([shape.iter().product::<usize>()])
        .reshape(shape)
}
