//! The kernel as PTX, which takes no device.

use std::{ffi::CStr, sync::Arc};

use burn::tensor::DType;
use cubecl::{
    Compiler, define_kernel,
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
    LlvmTarget, NvptxModule, PlironArtifact, PlironCompiler, PlironOptions,
    nvptx::ptx_version::PtxVersion,
};

use super::{
    super::super::warpgroup::HOPPER,
    kernel::warpgroup_matmul,
    tiles::{Tiles, WIDTH},
};

/// What an H100 has.
const MULTIPROCESSORS: usize = 132;
const SHARED_MEMORY: usize = 227 * 1024;
/// CUDA 12.4, as `cuDriverGetVersion` says it.
const DRIVER: i32 = 12040;

fn hopper() -> Arc<DeviceProperties> {
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

fn compile(tiles: Tiles, float: FloatKind) -> NvptxModule {
    let settings = KernelSettings::new(
        CubeDim::new_1d(tiles.units() as u32).into(),
        ExecutionMode::Unchecked,
        AddressType::U32,
    );
    let mut launcher = KernelLauncher::new(settings.clone());
    launcher.with_scope(|scope| {
        scope.device_properties(&hopper());
    });
    let [rows, weight, output] = [(); 3].map(|()| {
        let tensor = TensorArg::Alias {
            input_pos: 0,
            strides: [64, 1].into(),
            shape: [64, 64].into(),
        };
        let mut tensor = <Tensor<f32> as LaunchArg>::register(tensor, &mut launcher);
        tensor.buffer.inplace = None;
        tensor
    });
    launcher.discard();
    let target = Arc::new(TargetProperties::default());
    let dtype = ElemType::Float(float);
    let kernel = warpgroup_matmul::WarpgroupMatmul::new(
        settings,
        hopper(),
        target,
        rows,
        weight,
        output,
        WIDTH,
        tiles,
        dtype,
    );
    let mut compiler = PlironCompiler {
        target: LlvmTarget::Nvptx,
    };
    let options = PlironOptions {
        sm_arch: Some(SmArch::new(90, true)),
        ptx_version: PtxVersion::for_driver(DRIVER),
        grid_constants: true,
        ..Default::default()
    };
    let definition = define_kernel(&kernel).unwrap();
    match compiler.compile(definition, &options).unwrap() {
        PlironArtifact::NvptxCode(module) => module,
        _ => unreachable!("what the target makes"),
    }
}

#[test]
fn every_tile_compiles_to_warpgroup_instructions_and_registers() {
    for (dtype, float) in [(DType::F16, FloatKind::F16), (DType::BF16, FloatKind::BF16)] {
        for shape in [[8192, 8192], [512, 4096], [128, 4096]] {
            let tiles = Tiles::of(shape, MULTIPROCESSORS, dtype);
            let module = compile(tiles, float);
            // SAFETY: PTX for the driver ends with a zero.
            let ptx = unsafe { CStr::from_ptr(module.ptx.as_ptr()) };
            let ptx = ptx.to_string_lossy();
            let Tiles { columns, dtype, .. } = tiles;
            let instruction = format!("m64n{columns}k16.f32.{dtype}.{dtype}");
            assert_eq!(ptx.matches(&instruction).count(), 4, "{tiles:?}:\n{ptx}");
            assert!(ptx.contains("cp.async.cg.shared.global"), "{tiles:?}");
            assert!(!ptx.contains(".local"), "{tiles:?} spills:\n{ptx}");
            assert!(module.shared_memory_size <= SHARED_MEMORY, "{tiles:?}");
        }
    }
}

#[test]
fn products_with_too_few_large_tiles_take_smaller_ones() {
    let tiles = |shape| {
        let Tiles {
            groups, columns, ..
        } = Tiles::of(shape, MULTIPROCESSORS, DType::F16);
        (groups, columns)
    };
    assert_eq!(tiles([2048, 4096]), (2, 256));
    assert_eq!(tiles([512, 4096]), (1, 256));
    assert_eq!(tiles([128, 4096]), (1, 128));
}
