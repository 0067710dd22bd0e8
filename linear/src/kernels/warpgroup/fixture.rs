//! Kernels as PTX, which takes no device.

use std::{ffi::CStr, sync::Arc};

use cubecl::{
    Compiler, CubeKernel, define_kernel,
    ir::{
        DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
        MemoryDeviceProperties, TargetProperties, VectorSize,
        features::{Features, TypeUsage},
        nvidia::SmArch,
    },
    prelude::*,
    profile::TimingMethod,
};
use cubecl_llvm::{
    LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions, nvptx::ptx_version::PtxVersion,
};

use super::HOPPER;

/// What an H100 has.
pub(in super::super) const MULTIPROCESSORS: usize = 132;
/// What a cube of an H100 may have.
pub(in super::super) const SHARED_MEMORY: usize = 227 << 10;
/// CUDA 12.4, as `cuDriverGetVersion` says it.
const DRIVER: i32 = 12040;

/// An H100.
pub(in super::super) fn hopper() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 32,
        max_shared_memory_size: SHARED_MEMORY,
        max_cube_count: (u32::MAX, u16::MAX as u32, u16::MAX as u32),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(MULTIPROCESSORS as u32),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity = DeviceIdentity {
        name: "H100".to_owned(),
        fingerprint: HOPPER.to_owned(),
        physical: None,
    };
    let memory = MemoryDeviceProperties::new(u64::MAX, 256);
    let mut properties = DeviceProperties::new(
        Features::default(),
        memory,
        hardware,
        TimingMethod::Device,
        identity,
    );
    for float in [FloatKind::F16, FloatKind::BF16, FloatKind::F32] {
        properties.register_type_usage(ElemType::Float(float), TypeUsage::all());
    }
    Arc::new(properties)
}

/// What is known of the target besides.
pub(in super::super) fn target() -> Arc<TargetProperties> {
    Arc::new(TargetProperties::default())
}

/// What a launch of so many units sets.
pub(in super::super) fn settings(units: usize) -> KernelSettings {
    KernelSettings::new(
        CubeDim::new_1d(units as u32).into(),
        ExecutionMode::Unchecked,
        AddressType::U32,
    )
}

/// A launch that is not made, in which arguments are registered; `types` tells it the types of theirs.
pub(in super::super) fn launcher(
    settings: &KernelSettings,
    mut types: impl FnMut(&Scope),
) -> KernelLauncher {
    let mut launcher = KernelLauncher::new(settings.clone());
    launcher.with_scope(|scope| {
        scope.device_properties(&hopper());
        types(scope);
    });
    launcher
}

/// A tensor without memory, as an alias: once it is registered, [`own`] makes it an argument of its own.
pub(in super::super) fn tensor() -> TensorArg {
    TensorArg::Alias {
        input_pos: 0,
        strides: [64, 1].into(),
        shape: [64, 64].into(),
    }
}

/// What a kernel knows of a tensor when it is compiled.
pub(in super::super) type Compiled = <Tensor<f32> as LaunchArg>::CompilationArg;

/// Makes tensors arguments of their own.
pub(in super::super) fn own<const N: usize>(tensors: [&mut Compiled; N]) {
    for tensor in tensors {
        tensor.buffer.inplace = None;
    }
}

/// Registers a tensor.
pub(in super::super) fn register(launcher: &mut KernelLauncher) -> Compiled {
    let mut compiled = <Tensor<f32> as LaunchArg>::register(tensor(), launcher);
    own([&mut compiled]);
    compiled
}

/// A kernel as PTX for an H100, and the bytes of shared memory that it takes.
pub(in super::super) fn compile(kernel: &impl CubeKernel) -> (String, usize) {
    compile_for(SmArch::new(90, true), kernel)
}

/// A kernel as PTX for an architecture, and the bytes of shared memory that it takes.
pub(in super::super) fn compile_for(
    architecture: SmArch,
    kernel: &impl CubeKernel,
) -> (String, usize) {
    let mut compiler = PlironCompiler {
        target: LlvmTarget::Nvptx,
    };
    let options = PlironOptions {
        sm_arch: Some(architecture),
        ptx_version: PtxVersion::for_driver(DRIVER),
        grid_constants: true,
        ..Default::default()
    };
    let definition = define_kernel(kernel).expect("the kernel expands");
    match compiler.compile(definition, &options).unwrap() {
        PlironArtifact::NvptxCode(module) => {
            // SAFETY: PTX for the driver ends with a zero.
            let ptx = unsafe { CStr::from_ptr(module.ptx.as_ptr()) };
            let ptx = ptx.to_string_lossy().into_owned();
            (ptx, module.shared_memory_size)
        }
        _ => unreachable!("what the target makes"),
    }
}
