//! The kernel as PTX, which takes no device.

use burn::tensor::DType;
use cubecl::prelude::*;

use super::{
    super::{
        super::{
            super::{
                matrix_instruction::PACKED,
                warpgroup::fixture::{
                    MULTIPROCESSORS, SHARED_MEMORY, compile, hopper, launcher, own, register,
                    settings, target, tensor,
                },
            },
            Epilogue, Packing,
            args::{WeightsArg, WeightsArgLaunch},
            segments::Sizes,
            sink::{Segment, Whole},
        },
        shape::{StageShape, WIDTH},
        tests::{float, register_output},
    },
    WORDS,
    kernel::packed_kernel::{F, H, PackedKernel, W},
    shape::{PackedShape, segmentation},
};

/// The kernel for so many segments, and the bytes of shared memory that it takes.
fn ptx(segments: usize, shape: PackedShape) -> (String, usize) {
    let settings = settings(shape.units());
    let dtype = float(shape.stages.dtype);
    let mut launcher = launcher(&settings, |scope| {
        scope.register_type::<F>(dtype);
        scope.register_size::<W>(WORDS);
        scope.register_size::<H>(1);
    });
    let rows = register(&mut launcher);
    let arg = WeightsArgLaunch::new(tensor(), tensor(), tensor());
    let mut weights = <WeightsArg<i32, W, F, H> as LaunchArg>::register(arg, &mut launcher);
    own([&mut weights.words, &mut weights.heads, &mut weights.zeros]);
    let target = target();
    if segments == 1 {
        let output = register_output::<F>(&mut launcher);
        launcher.discard();
        compile(&PackedKernel::<Whole>::new(
            settings,
            hopper(),
            target,
            rows,
            weights,
            output,
            WIDTH,
            WORDS,
            PACKED,
            1,
            shape,
            dtype,
        ))
    } else {
        let output = register(&mut launcher);
        launcher.discard();
        compile(&PackedKernel::<Segment>::new(
            settings,
            hopper(),
            target,
            rows,
            weights,
            output,
            WIDTH,
            WORDS,
            PACKED,
            1,
            shape,
            dtype,
        ))
    }
}

#[test]
fn packed_weights_compile_to_warpgroup_instructions_and_registers() {
    for (bits, dtype, sizes, segments) in [
        (4, DType::F16, [16, 6144, 4096], 1),
        (4, DType::BF16, [16, 28_672, 4096], 1),
        (8, DType::F16, [64, 4096, 4096], 4),
        (4, DType::F16, [128, 28_672, 4096], 1),
    ] {
        for asymmetric in [false, true] {
            let packing = Packing {
                bits,
                group: 128,
                asymmetric,
                ..Packing::WHOLE
            };
            let epilogue = Epilogue {
                biased: true,
                gated: false,
                added: true,
            };
            let sizes = Sizes::new(
                SHARED_MEMORY,
                MULTIPROCESSORS,
                sizes,
                epilogue,
                &segmentation(bits),
            );
            assert_eq!(sizes.segments, segments, "{sizes:?}");
            let shape = PackedShape::new(&sizes, packing, dtype);
            let (ptx, shared_bytes) = ptx(segments, shape);
            let StageShape {
                lhs_rows, dtype, ..
            } = shape.stages;
            let instruction = format!("m64n{lhs_rows}k16.f32.{dtype}.{dtype}");
            let n = ptx.matches(&instruction).count();
            let expected = 4 * shape.runs_of_group() * shape.tiles_per_run();
            assert_eq!(n, expected, "{shape:?}:\n{ptx}");
            assert!(ptx.contains("cp.async.cg.shared.global"), "{shape:?}");
            assert!(!ptx.contains(".local"), "{shape:?} spills:\n{ptx}");
            assert!(shared_bytes <= SHARED_MEMORY, "{shape:?}");
        }
    }
}
