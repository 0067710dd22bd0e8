//! The kernel as PTX, which takes no device.

use burn::tensor::DType;
use cubecl::{
    ir::{ElemType, FloatKind},
    prelude::*,
};

use super::{
    super::{
        super::warpgroup::fixture::{
            Compiled, MULTIPROCESSORS, SHARED_MEMORY, compile, hopper, launcher, own, register,
            settings, target, tensor,
        },
        Epilogue,
        args::{OutputArg, OutputArgLaunch},
        segments::Sizes,
        sink::{Segment, Whole},
    },
    kernel::warpgroup_gemv_kernel::{F, WarpgroupGemvKernel},
    shape::{SEGMENTATION, StageShape, WIDTH},
};

/// The dtype that PTX calls so.
pub(super) fn float(name: &str) -> ElemType {
    ElemType::Float(match name {
        "bf16" => FloatKind::BF16,
        _ => FloatKind::F16,
    })
}

/// Registers an output, and what the epilogue adds.
pub(super) fn register_output<F: Float>(
    launcher: &mut KernelLauncher,
) -> <OutputArg<F> as LaunchArg>::CompilationArg {
    let arg = OutputArgLaunch::new(tensor(), tensor(), tensor());
    let mut output = <OutputArg<F> as LaunchArg>::register(arg, launcher);
    let tensors: [&mut Compiled; 3] = [&mut output.bias, &mut output.residual, &mut output.output];
    own(tensors);
    output
}

/// The kernel for so many segments, and the bytes of shared memory that it takes.
fn ptx(segments: usize, shape: StageShape) -> (String, usize) {
    let settings = settings(shape.units());
    let dtype = float(shape.dtype);
    let mut launcher = launcher(&settings, |scope| scope.register_type::<F>(dtype));
    let [rows, weight] = [(); 2].map(|()| register(&mut launcher));
    let target = target();
    if segments == 1 {
        let output = register_output::<F>(&mut launcher);
        launcher.discard();
        compile(&WarpgroupGemvKernel::<Whole>::new(
            settings,
            hopper(),
            target,
            rows,
            weight,
            output,
            WIDTH,
            shape,
            dtype,
        ))
    } else {
        let output = register(&mut launcher);
        launcher.discard();
        compile(&WarpgroupGemvKernel::<Segment>::new(
            settings,
            hopper(),
            target,
            rows,
            weight,
            output,
            WIDTH,
            shape,
            dtype,
        ))
    }
}

#[test]
fn whole_weights_compile_to_warpgroup_instructions_and_registers() {
    for (sizes, gated, segments) in [
        ([16, 6144, 4096], false, 1),
        ([64, 28_672, 4096], true, 1),
        ([128, 6144, 4096], false, 2),
    ] {
        for dtype in [DType::F16, DType::BF16] {
            let epilogue = Epilogue {
                biased: true,
                gated,
                added: true,
            };
            let sizes = Sizes::new(
                SHARED_MEMORY,
                MULTIPROCESSORS,
                sizes,
                epilogue,
                &SEGMENTATION,
            );
            assert_eq!(sizes.segments, segments, "{sizes:?}");
            let shape = StageShape::new(&sizes, dtype);
            let (ptx, shared_bytes) = ptx(segments, shape);
            let StageShape {
                lhs_rows,
                depth,
                dtype,
                ..
            } = shape;
            let instruction = format!("m64n{lhs_rows}k16.f32.{dtype}.{dtype}");
            let n = ptx.matches(&instruction).count();
            assert_eq!(n, 4 * depth, "{shape:?}:\n{ptx}");
            assert!(ptx.contains("cp.async.cg.shared.global"), "{shape:?}");
            assert!(!ptx.contains(".local"), "{shape:?} spills:\n{ptx}");
            assert!(shared_bytes <= SHARED_MEMORY, "{shape:?}");
        }
    }
}
