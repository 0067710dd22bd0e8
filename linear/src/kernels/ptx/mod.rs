//! Instructions of NVIDIA's GPUs that CubeCL 0.11 does not have, as PTX: an operation with a lowering of its own
//! (`operation.rs`, `lowering.rs`), and the copies that kernels of several architectures share.

mod copies;
mod lowering;
mod operation;

use burn::tensor::DType;
use cubecl::{cuda::compiler::CudaBackend, ir::Scope};

pub use self::copies::{copy, end_copies, shared_address, wait_for_copies};
pub(super) use self::operation::PtxOp;

/// Whether CubeCL compiles for CUDA through LLVM: C++ would have to know the operation as well.
pub(super) fn is_compiled() -> bool {
    CudaBackend::default() == CudaBackend::Llvm
}

/// A dtype of half precision as PTX calls it.
pub fn ptx_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        _ => "f16",
    }
}

/// An instruction without operands.
pub(super) fn plain(scope: &Scope, text: &str) {
    let op = PtxOp::new(scope.ctx_mut(), text, vec![]);
    scope.register(&op);
}

/// Operands from the first on, so many.
pub(super) fn operands(first: usize, n: usize) -> String {
    let operands = (first..first + n).map(|i| format!("${i}"));
    operands.collect::<Vec<_>>().join(", ")
}
