//! PTX to inline assembly of LLVM.

use cubecl::ir::prelude::*;
use cubecl_llvm::shared::to_llvm::ToLLVMDialect;
use pliron::builtin::types::{FP32Type, IntegerType, Signedness};
use pliron_llvm::{
    op_interfaces::CastOpInterface,
    ops as llvm,
    types::{
        ArrayType as LlvmArrayType, PointerType as LlvmPointerType, StructLayout, StructType,
        VoidType,
    },
};

use super::operation::{Counts, PtxOp};

/// Address space of shared memory in LLVM's NVPTX target.
const SHARED: u32 = 3;

#[op_interface_impl]
impl ToLLVMDialect for PtxOp {
    fn rewrite(
        &self,
        ctx: &mut Context,
        rewriter: &mut DialectConversionRewriter,
        _operands: &OperandsInfo,
    ) -> Result<()> {
        let op = self.get_operation();
        let mut operands = op.operands(ctx);
        let float: TypeHandle = FP32Type::get(ctx).into();
        let word: TypeHandle = IntegerType::get(ctx, 32, Signedness::Signless).into();
        let long: TypeHandle = IntegerType::get(ctx, 64, Signedness::Signless).into();
        let Counts {
            sums,
            words,
            loaded,
        } = self.counts(ctx);
        let pure = self.is_pure(ctx);

        // Either sums or loaded words.
        let outputs = sums + loaded;
        let element = if sums > 0 { float } else { word };
        let place = (outputs > 0).then(|| operands.remove(0));
        let mut inputs = match place {
            Some(place) if sums > 0 => elements(ctx, rewriter, place, float, sums),
            _ => vec![],
        };
        if words > 0 {
            let from = operands.remove(0);
            inputs.extend(elements(ctx, rewriter, from, word, words));
        }
        let mut constraints: Vec<String> = vec!["=f".to_string(); sums];
        // They are written before the last address is read.
        constraints.extend((0..loaded).map(|_| "=&r".to_string()));
        if pure {
            constraints.push("=r".to_string());
        }
        constraints.extend((0..sums).map(|i| i.to_string()));
        constraints.extend((0..words).map(|_| "r".to_string()));
        for operand in operands {
            let is_pointer = operand.get_type(ctx).deref(ctx).is::<LlvmPointerType>();
            let input = match (is_pointer, pure) {
                (false, _) => operand,
                // Of shared memory, whose addresses have 32 bits.
                (true, true) => {
                    let space: TypeHandle = LlvmPointerType::get(ctx, SHARED).into();
                    let shared = put(ctx, rewriter, |ctx| {
                        llvm::AddrSpaceCastOp::new(ctx, operand, space)
                    });
                    put(ctx, rewriter, |ctx| {
                        llvm::PtrToIntOp::new(ctx, shared, word)
                    })
                }
                (true, false) => put(ctx, rewriter, |ctx| {
                    llvm::PtrToIntOp::new(ctx, operand, long)
                }),
            };
            constraints.push(if is_pointer && !pure { "l" } else { "r" }.to_string());
            inputs.push(input);
        }
        if !pure {
            constraints.push("~{memory}".to_string());
        }

        let result: TypeHandle = if pure {
            word
        } else if outputs > 0 {
            StructType::get_unnamed(ctx, (vec![element; outputs], StructLayout::Unpacked)).into()
        } else {
            VoidType::get(ctx).into()
        };
        let text = self.text(ctx);
        let constraints = constraints.join(",");
        let value = put(ctx, rewriter, |ctx| {
            llvm::InlineAsmOp::new(ctx, result, inputs, &text, &constraints, !pure)
        });

        if pure {
            rewriter.replace_operation_with_values(ctx, op, vec![value]);
            return Ok(());
        }
        if let Some(place) = place {
            let array: TypeHandle = LlvmArrayType::get(ctx, element, outputs as u64).into();
            let mut stored = put(ctx, rewriter, |ctx| llvm::PoisonOp::new(ctx, array));
            for i in 0..outputs {
                let at = vec![i as u32];
                let output = put(ctx, rewriter, |ctx| {
                    llvm::ExtractValueOp::new(ctx, value, at.clone()).expect("within the struct")
                });
                stored = put(ctx, rewriter, |ctx| {
                    llvm::InsertValueOp::new(ctx, stored, output, at)
                });
            }
            let store = llvm::StoreOp::new(ctx, stored, place);
            rewriter.insert_op(ctx, &store);
        }
        rewriter.erase_operation(ctx, op);
        Ok(())
    }
}

/// The elements of an array in memory of this unit, which LLVM turns into registers.
fn elements(
    ctx: &mut Context,
    rewriter: &mut DialectConversionRewriter,
    place: Value,
    element: TypeHandle,
    n: usize,
) -> Vec<Value> {
    let array: TypeHandle = LlvmArrayType::get(ctx, element, n as u64).into();
    let loaded = put(ctx, rewriter, |ctx| llvm::LoadOp::new(ctx, place, array));
    let elements = (0..n as u32).map(|i| {
        put(ctx, rewriter, |ctx| {
            llvm::ExtractValueOp::new(ctx, loaded, vec![i]).expect("within the array")
        })
    });
    elements.collect()
}

fn put<O: OneResultInterface>(
    ctx: &mut Context,
    rewriter: &mut DialectConversionRewriter,
    op: impl FnOnce(&mut Context) -> O,
) -> Value {
    let op = op(ctx);
    rewriter.insert_op(ctx, &op);
    op.get_result(ctx)
}
