//! What a device is asked before anything is launched on it.

use burn::{
    backend::{DispatchDevice, cubecl::dtype_to_storage_type},
    tensor::{DType, Device},
};
use cubecl::{
    MemoryScope,
    ir::{DeviceProperties, features::Plane},
};

/// Whether this is a CubeCL device with such properties.
pub fn is_cube_with(device: &Device, such: impl FnOnce(&DeviceProperties) -> bool) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(cube) => such(cube.client().properties()),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Whether the kernels run on this device: a CubeCL device whose units can exchange values
/// within a plane.
///
/// An autodiff device is not one of them, as the kernels have no backward pass.
pub fn supported(device: &Device) -> bool {
    is_cube_with(device, |properties| {
        let hardware = &properties.hardware;
        let (min, max) = (hardware.plane_size_min, hardware.plane_size_max);
        // wgpu does not claim plane operations for drivers that run on the CPU, which have
        // them; where they are truly missing it reports a made-up range of sizes.
        let exchanges = properties.features.plane.contains(Plane::Ops) || min == max;
        exchanges && min.is_power_of_two()
    })
}

/// Whether the kernels run on this device with a cache of this dtype and head dim.
pub fn supports(device: &Device, dtype: DType, head_dim: usize) -> bool {
    let storable = is_cube_with(device, |properties| {
        // The merge of splits has a unit per channel.
        properties.supports_type(dtype_to_storage_type(dtype))
            && head_dim <= properties.hardware.max_units_per_cube as usize
    });
    let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    float && storable && head_dim > 0 && supported(device)
}

/// Whether a launch on this device may have so many buffers.
pub fn binds(device: &Device, buffers: usize) -> bool {
    is_cube_with(device, |properties| {
        properties.hardware.max_bindings as usize >= buffers
    })
}

/// Lets the device's own thread catch up: what it has yet to allocate, it holds as well.
pub(super) fn wait_for_allocations(device: &Device) {
    if let DispatchDevice::Cube(cube) = device.as_dispatch() {
        // What it answers does not matter.
        cube.client().memory_report(MemoryScope::CurrentStream);
    }
}
