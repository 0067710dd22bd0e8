//! The kernel as PTX, which takes no device.

use burn::tensor::DType;
use cubecl::{
    ir::nvidia::SmArch,
    ir::{ElemType, FloatKind, HardwareProperties},
};

use super::{
    super::{
        super::warpgroup::fixture::{compile_for, hopper, launcher, register, settings, target},
        staged::WIDTH,
    },
    kernel::mma_matmul,
    tiles::{N_SIZES, Tiles},
};

/// Multiprocessors and shared memory of a cube of an A100, and of an RTX 4090.
const A100: (usize, usize) = (108, 163 << 10);
const RTX_4090: (usize, usize) = (128, 99 << 10);

fn hardware(shared_memory: usize) -> HardwareProperties {
    HardwareProperties {
        max_shared_memory_size: shared_memory,
        ..hopper().hardware.clone()
    }
}

fn ptx(tiles: Tiles, float: FloatKind) -> (String, usize) {
    let settings = settings(tiles.units());
    let mut launcher = launcher(&settings, |_| ());
    let [rows, weight, output] = [(); 3].map(|()| register(&mut launcher));
    launcher.discard();
    let kernel = mma_matmul::MmaMatmul::new(
        settings,
        hopper(),
        target(),
        rows,
        weight,
        output,
        WIDTH,
        tiles,
        ElemType::Float(float),
    );
    compile_for(SmArch::new(80, true), &kernel)
}

#[test]
fn every_tile_compiles_to_instructions_of_ampere_and_registers() {
    for (_, shared_memory) in [A100, RTX_4090] {
        let hardware = hardware(shared_memory);
        for (dtype, float) in [(DType::F16, FloatKind::F16), (DType::BF16, FloatKind::BF16)] {
            for size in 0..N_SIZES {
                let Some(tiles) = Tiles::of_size(size, &hardware, dtype) else {
                    continue;
                };
                let (ptx, shared_bytes) = ptx(tiles, float);
                let Tiles { dtype, .. } = tiles;
                let count = |text: &str| ptx.matches(text).count();
                let slices = tiles.slices();
                let instruction = format!("mma.sync.aligned.m16n8k16.row.col.f32.{dtype}.{dtype}");
                assert_eq!(count(&instruction), slices * tiles.sums() / 4, "{tiles:?}");
                // Those before the first step besides.
                let loads = tiles.loads().iter().sum::<usize>() * (slices + 1);
                assert_eq!(count("ldmatrix.sync.aligned.m8n8.x4"), loads, "{tiles:?}");
                let copies = tiles.staging().copies().iter().sum::<usize>() * tiles.stages;
                assert_eq!(count("cp.async.cg.shared.global"), copies, "{tiles:?}");
                assert_eq!(count("bar"), 2, "{tiles:?}:\n{ptx}");
                assert!(!ptx.contains(".local"), "{tiles:?} spills:\n{ptx}");
                assert_eq!(shared_bytes, tiles.staging().bytes(), "{tiles:?}");
                assert!(shared_bytes <= shared_memory, "{tiles:?}");
            }
        }
    }
}

#[test]
fn tiles_are_those_that_keep_a_device_busy_and_fit_into_its_shared_memory() {
    let tiles = |(multiprocessors, shared_memory), shape| {
        let hardware = hardware(shared_memory);
        let tiles = Tiles::of(shape, multiprocessors, &hardware, DType::F16).unwrap();
        (tiles.tile(), tiles.staging().step(), tiles.stages)
    };
    assert_eq!(tiles(A100, [2048, 4096]), ([128, 256], 64, 3));
    assert_eq!(tiles(RTX_4090, [2048, 4096]), ([128, 256], 32, 4));
    assert_eq!(tiles(A100, [512, 4096]), ([128, 128], 32, 4));
    assert_eq!(tiles(RTX_4090, [512, 4096]), ([128, 128], 32, 3));
    assert_eq!(tiles(A100, [256, 4096]), ([64, 128], 64, 4));
    assert_eq!(tiles(A100, [128, 4096]), ([64, 64], 64, 6));
    assert_eq!(tiles(RTX_4090, [1, 64]), ([64, 64], 64, 6));
}

#[test]
fn a_device_without_room_for_any_tiles_has_none() {
    let hardware = hardware(32 << 10);
    assert_eq!(Tiles::of([2048, 4096], 108, &hardware, DType::F16), None);
}
