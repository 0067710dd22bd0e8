//! PTX as an operation of CubeCL's IR.
//!
//! CubeCL's own (`asm!`) is lowered to CUDA C++ only, which Burn's CUDA backend does not compile with. An
//! operation of another crate is lowered like CubeCL's own ones, by the trait [`ToLLVMDialect`].

use cubecl::ir::{
    AddressSpace, CanMaterialize,
    attributes::IndexAttr,
    interfaces::side_effects::{MemoryEffect, MemoryEffectsOp},
    prelude::*,
    types::PointerType,
};
use cubecl_llvm::shared::to_llvm::ToLLVMDialect;
use pliron::{
    builtin::{
        attributes::StringAttr,
        types::{FP32Type, IntegerType, Signedness},
    },
    opts::dce::SideEffects,
};
use pliron_llvm::{
    op_interfaces::CastOpInterface,
    ops as llvm,
    types::{
        ArrayType as LlvmArrayType, PointerType as LlvmPointerType, StructLayout, StructType,
        VoidType,
    },
};

/// Address space of shared memory in LLVM's NVPTX target.
const SHARED: u32 = 3;

/// Instructions in PTX, with operands `$0` and on, which they read as they do shared memory.
///
/// With sums, the first operand points at so many `f32` of this unit, which are outputs and inputs: `$0` and
/// on, twice as many, before the other operands. With words, the next operand points at so many words of this
/// unit, which follow one by one. With a result, `$0` is the result, there are no effects,
/// and pointers are those of shared memory.
#[pliron_op(
    name = "quest.ptx",
    format,
    attributes = (
        quest_ptx_text: StringAttr,
        quest_ptx_sums: IndexAttr,
        quest_ptx_words: IndexAttr
    ),
    verifier = "succ"
)]
#[op_traits(CanMaterialize)]
pub(super) struct PtxOp;

impl PtxOp {
    /// Instructions without sums and without a result.
    pub(super) fn new(ctx: &mut Context, text: &str, operands: Vec<Value>) -> Self {
        Self::build(ctx, text, [0, 0], operands, vec![])
    }

    /// Instructions that add to sums, the first operand, and may read words, the second.
    pub(super) fn with_sums(
        ctx: &mut Context,
        text: &str,
        [sums, words]: [usize; 2],
        operands: Vec<Value>,
    ) -> Self {
        Self::build(ctx, text, [sums, words], operands, vec![])
    }

    /// An instruction that makes a word of an operand.
    pub(super) fn pure(ctx: &mut Context, text: &str, operand: Value, word: TypeHandle) -> Self {
        Self::build(ctx, text, [0, 0], vec![operand], vec![word])
    }

    fn build(
        ctx: &mut Context,
        text: &str,
        [sums, words]: [usize; 2],
        operands: Vec<Value>,
        results: Vec<TypeHandle>,
    ) -> Self {
        let info = Self::get_concrete_op_info();
        let op = Operation::new(ctx, info, results, operands, vec![], 0);
        let this = Self { op };
        this.set_attr_quest_ptx_text(ctx, text.to_owned().into());
        this.set_attr_quest_ptx_sums(ctx, IndexAttr(sums));
        this.set_attr_quest_ptx_words(ctx, IndexAttr(words));
        this
    }

    /// The result of a [`Self::pure`] one.
    pub(super) fn result(&self, ctx: &Context) -> Value {
        self.get_operation().results(ctx)[0]
    }

    fn text(&self, ctx: &Context) -> String {
        self.get_attr_quest_ptx_text(ctx).unwrap().clone().into()
    }

    fn sums(&self, ctx: &Context) -> usize {
        self.get_attr_quest_ptx_sums(ctx).unwrap().0
    }

    fn words(&self, ctx: &Context) -> usize {
        self.get_attr_quest_ptx_words(ctx).unwrap().0
    }

    fn is_pure(&self, ctx: &Context) -> bool {
        !self.get_operation().results(ctx).is_empty()
    }
}

#[op_interface_impl]
impl SideEffects for PtxOp {
    fn has_side_effects(&self, ctx: &Context) -> bool {
        !self.is_pure(ctx)
    }
}

#[op_interface_impl]
impl MemoryEffectsOp for PtxOp {
    fn memory_effects(&self, ctx: &Context) -> Vec<MemoryEffect> {
        if self.is_pure(ctx) {
            return vec![];
        }
        let mut effects = vec![
            MemoryEffect::ReadAllInSpace(AddressSpace::Shared),
            MemoryEffect::WriteAllInSpace(AddressSpace::Shared),
        ];
        for (i, operand) in self.get_operation().operands(ctx).into_iter().enumerate() {
            if operand.get_type(ctx).deref(ctx).is::<PointerType>() {
                effects.push(MemoryEffect::Read(operand));
                if i == 0 && self.sums(ctx) > 0 {
                    effects.push(MemoryEffect::Write(operand));
                }
            }
        }
        effects
    }
}

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
        let sums = self.sums(ctx);
        let pure = self.is_pure(ctx);

        let words = self.words(ctx);
        let array: TypeHandle = LlvmArrayType::get(ctx, float, sums as u64).into();
        let place = (sums > 0).then(|| operands.remove(0));
        let mut inputs = match place {
            Some(place) => elements(ctx, rewriter, place, float, sums),
            None => vec![],
        };
        if words > 0 {
            let from = operands.remove(0);
            inputs.extend(elements(ctx, rewriter, from, word, words));
        }
        let mut constraints: Vec<String> = vec!["=f".to_string(); sums];
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
        } else if sums > 0 {
            StructType::get_unnamed(ctx, (vec![float; sums], StructLayout::Unpacked)).into()
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
            let mut stored = put(ctx, rewriter, |ctx| llvm::PoisonOp::new(ctx, array));
            for i in 0..sums {
                let at = vec![i as u32];
                let sum = put(ctx, rewriter, |ctx| {
                    llvm::ExtractValueOp::new(ctx, value, at.clone()).expect("within the struct")
                });
                stored = put(ctx, rewriter, |ctx| {
                    llvm::InsertValueOp::new(ctx, stored, sum, at)
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
