//! The instructions that CubeCL does not have. Addresses are those of shared memory, in bytes.

use cubecl::{intrinsic, ir::Scope, prelude::*};

use super::ptx::PtxOp;

/// Where an element lies in shared memory.
#[cube]
pub(super) fn shared_address<E: CubePrimitive>(element: &[E]) -> u32 {
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
pub(super) fn copy<E: CubePrimitive>(from: &[E], to: u32, bytes: u32) {
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
pub(super) fn end_copies() {
    intrinsic!(|scope| plain(scope, "cp.async.commit_group;"))
}

/// Waits until at most so many of this unit's groups of copies are under way.
#[cube]
pub(super) fn wait_for_copies(#[comptime] pending: usize) {
    intrinsic!(|scope| plain(scope, &format!("cp.async.wait_group {pending};")))
}

/// After the next barrier, products see what this unit has copied.
#[cube]
pub(super) fn publish() {
    intrinsic!(|scope| plain(scope, "fence.proxy.async.shared::cta;"))
}

/// Begins to add the products of 64 rows of 64 channels and as many weight rows as there are `columns`.
/// Until they are complete, nothing else may touch the sums.
#[cube]
pub(super) fn multiply(
    sums: &mut Array<f32>,
    rows: u32,
    weight_rows: u32,
    #[comptime] columns: usize,
    #[comptime] dtype: &'static str,
) {
    intrinsic!(|scope| {
        let n = sums.__expand_len_method(scope);
        let operands = vec![
            sums.__extract_list(scope),
            rows.read_value(scope),
            weight_rows.read_value(scope),
        ];
        let text = products(n, columns, dtype);
        let op = PtxOp::with_sums(scope.ctx_mut(), &text, n, operands);
        scope.register(&op);
    })
}

/// Waits until at most so many steps of this group's products are under way.
#[cube]
pub(super) fn wait_for_products(#[comptime] pending: usize) {
    intrinsic!(|scope| plain(scope, &format!("wgmma.wait_group.sync.aligned {pending};")))
}

/// Waits for all products of the group.
#[cube]
pub(super) fn complete(sums: &mut Array<f32>) {
    intrinsic!(|scope| {
        let n = sums.__expand_len_method(scope);
        let operands = vec![sums.__extract_list(scope)];
        let text = "wgmma.wait_group.sync.aligned 0;";
        let op = PtxOp::with_sums(scope.ctx_mut(), text, n, operands);
        scope.register(&op);
    })
}

fn plain(scope: &Scope, text: &str) {
    let op = PtxOp::new(scope.ctx_mut(), text, vec![]);
    scope.register(&op);
}

/// Four instructions of 16 channels, 32 bytes, each. A matrix in shared memory is described by 64 bits:
/// its address in the low half, in units of 16 bytes; in the high half that eight rows take 64 of these
/// units, and that their parts are permuted in rows of 128 bytes.
fn products(n: usize, columns: usize, dtype: &str) -> String {
    let sums = (0..n)
        .map(|i| format!("${i}"))
        .collect::<Vec<_>>()
        .join(", ");
    // After the sums as outputs and as inputs.
    let (rows, weight_rows) = (2 * n, 2 * n + 1);
    let mut text = format!(
        "{{\n\
         .reg .b32 low;\n\
         .reg .b64 a, b;\n\
         shr.u32 low, ${rows}, 4;\n\
         mov.b64 a, {{low, 0x40000040}};\n\
         shr.u32 low, ${weight_rows}, 4;\n\
         mov.b64 b, {{low, 0x40000040}};\n\
         wgmma.fence.sync.aligned;\n"
    );
    for step in 0..4 {
        if step > 0 {
            text += "add.s64 a, a, 2;\nadd.s64 b, b, 2;\n";
        }
        text += &format!(
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{dtype}.{dtype} \
             {{{sums}}}, a, b, 1, 1, 1, 0, 0;\n"
        );
    }
    text + "wgmma.commit_group.sync.aligned;\n}"
}
