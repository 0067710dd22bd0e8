//! What every launch needs.

use burn::tensor::{DType, Shape, Tensor, kind::Basic};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::{MemoryScope, prelude::*};

use super::device::wait_for_allocations;

/// The address width that covers every tensor of a launch.
pub fn address_type(tensors: &[&CubeTensor]) -> AddressType {
    tensors
        .iter()
        .map(|tensor| tensor.required_address_type())
        .max()
        .unwrap_or_default()
}

/// An uninitialised tensor on the device of `like`.
pub fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        Shape::from(shape),
        dtype,
    )
}

/// Multiprocessors of the device; those of a large one where the runtime does not say, as too few
/// cubes cost more than too many.
pub fn multiprocessors(like: &CubeTensor) -> usize {
    let hardware = &like.client.properties().hardware;
    hardware.num_streaming_multiprocessors.unwrap_or(128) as usize
}

/// Refuses a tensor that cannot be written in place: a silent copy of a cache would be slow and,
/// in a captured step, wrong.
pub fn assert_in_place(operation: &str, what: &str, tensor: &CubeTensor) {
    assert!(is_held_alone(tensor), "{}", refusal(operation, what));
    assert!(
        tensor.is_contiguous(),
        "{operation}: expected contiguous {what}, found shape {:?} with strides {:?}",
        tensor.meta.shape(),
        tensor.meta.strides()
    );
}

/// The same for a tensor before it is handed over, so that a refusal leaves it where it is. With the
/// `fusion` feature, views are found by the launch only.
pub fn check_held_alone<const D: usize, K: Basic>(
    operation: &str,
    what: &str,
    tensor: &Tensor<D, K>,
) {
    let held_alone = tensor.can_mut() || {
        wait_for_allocations(&tensor.device());
        tensor.can_mut()
    };
    assert!(held_alone, "{}", refusal(operation, what));
}

fn refusal(operation: &str, what: &str) -> String {
    format!(
        "{operation}: expected {what} that nothing else holds, found another tensor that shares \
         their memory; drop clones and views before"
    )
}

/// Whether nothing else holds the tensor's memory.
///
/// The device's own thread allocates it some time after the tensor was made and holds it as well
/// until it has: it counts as another holder then, and only then. It takes its tasks in turn, so that
/// the allocation is over when a later task is.
fn is_held_alone(tensor: &CubeTensor) -> bool {
    tensor.can_mut() || {
        // What it answers does not matter.
        tensor.client.memory_report(MemoryScope::CurrentStream);
        tensor.can_mut()
    }
}
