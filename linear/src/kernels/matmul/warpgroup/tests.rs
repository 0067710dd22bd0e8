//! The kernel as PTX, which takes no device.

use burn::tensor::DType;
use cubecl::ir::{ElemType, FloatKind};

use super::{
    super::{
        super::warpgroup::fixture::{
            MULTIPROCESSORS, SHARED_MEMORY, compile, hopper, launcher, register, settings, target,
        },
        staged::WIDTH,
    },
    kernel::warpgroup_matmul,
    tiles::Tiles,
};

fn ptx(tiles: Tiles, float: FloatKind) -> (String, usize) {
    let settings = settings(tiles.units());
    let mut launcher = launcher(&settings, |_| ());
    let [rows, weight, output] = [(); 3].map(|()| register(&mut launcher));
    launcher.discard();
    let kernel = warpgroup_matmul::WarpgroupMatmul::new(
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
    compile(&kernel)
}

#[test]
fn every_tile_compiles_to_warpgroup_instructions_and_registers() {
    for (dtype, float) in [(DType::F16, FloatKind::F16), (DType::BF16, FloatKind::BF16)] {
        for shape in [[8192, 8192], [512, 4096], [128, 4096]] {
            let tiles = Tiles::of(shape, MULTIPROCESSORS, dtype);
            let (ptx, shared_bytes) = ptx(tiles, float);
            let Tiles { columns, dtype, .. } = tiles;
            let instruction = format!("m64n{columns}k16.f32.{dtype}.{dtype}");
            assert_eq!(ptx.matches(&instruction).count(), 4, "{tiles:?}:\n{ptx}");
            assert!(ptx.contains("cp.async.cg.shared.global"), "{tiles:?}");
            assert!(!ptx.contains(".local"), "{tiles:?} spills:\n{ptx}");
            assert!(shared_bytes <= SHARED_MEMORY, "{tiles:?}");
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
