//! Copies to shared memory that go on while a unit computes, which Ampere and all later architectures have.
//! Addresses are those of shared memory, in bytes.

use cubecl::{intrinsic, prelude::*};

use super::{PtxOp, plain};

/// Where an element lies in shared memory.
#[cube]
pub fn shared_address<E: CubePrimitive>(element: &[E]) -> u32 {
    intrinsic!(|scope| {
        // SAFETY: the pointer is to a value of the scope, which outlives it.
        let pointer = unsafe { *element.__expand_as_ptr_method(scope) }.value(scope);
        let word = u32::__expand_as_type(scope);
        let op = PtxOp::pure(scope.ctx_mut(), "mov.b32 $0, $1;", pointer, word);
        scope.register(&op);
        op.result(scope.ctx()).into()
    })
}

/// Begins to copy 16 bytes from global memory; of them `bytes` are read, the others become zeros.
#[cube]
pub fn copy<E: CubePrimitive>(from: &[E], to: u32, bytes: u32) {
    intrinsic!(|scope| {
        // SAFETY: the pointer is to a value of the scope, which outlives it.
        let from = unsafe { *from.__expand_as_ptr_method(scope) }.value(scope);
        let operands = vec![to.read_value(scope), from, bytes.read_value(scope)];
        let text = "cp.async.cg.shared.global [$0], [$1], 16, $2;";
        let op = PtxOp::new(scope.ctx_mut(), text, operands);
        scope.register(&op);
    })
}

/// Ends a group of copies, which may be empty.
#[cube]
pub fn end_copies() {
    intrinsic!(|scope| plain(scope, "cp.async.commit_group;"))
}

/// Waits until at most so many of this unit's groups of copies are under way.
#[cube]
pub fn wait_for_copies(#[comptime] pending: usize) {
    intrinsic!(|scope| plain(scope, &format!("cp.async.wait_group {pending};")))
}
