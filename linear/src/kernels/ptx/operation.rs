//! PTX as an operation of CubeCL's IR.
//!
//! CubeCL's own (`asm!`) is lowered to CUDA C++ only, which Burn's CUDA backend does not compile with. An
//! operation of another crate is lowered like CubeCL's own ones, by a trait: `lowering.rs`.

use cubecl::ir::{
    AddressSpace, CanMaterialize,
    attributes::IndexAttr,
    interfaces::side_effects::{MemoryEffect, MemoryEffectsOp},
    prelude::*,
    types::PointerType,
};
use pliron::{builtin::attributes::StringAttr, opts::dce::SideEffects};

/// Values in arrays of a unit, which instructions take one by one.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub sums: usize,
    pub words: usize,
    pub loaded: usize,
}

/// Instructions in PTX, with operands `$0` and on, which they read as they do shared memory.
///
/// With sums, the first operand points at so many `f32` of this unit, which are outputs and inputs: `$0` and
/// on, twice as many, before the other operands. With words, the next operand points at so many words of this
/// unit, which follow one by one. With loaded words and no sums, the first operand points at so many words of
/// this unit, which are outputs, `$0` and on. With a result, `$0` is the result, there are no effects, and
/// pointers are those of shared memory.
#[pliron_op(
    name = "quest.ptx",
    format,
    attributes = (
        quest_ptx_text: StringAttr,
        quest_ptx_sums: IndexAttr,
        quest_ptx_words: IndexAttr,
        quest_ptx_loaded: IndexAttr
    ),
    verifier = "succ"
)]
#[op_traits(CanMaterialize)]
pub(in super::super) struct PtxOp;

impl PtxOp {
    /// Instructions without sums and without a result.
    pub(in super::super) fn new(ctx: &mut Context, text: &str, operands: Vec<Value>) -> Self {
        Self::build(ctx, text, Counts::default(), operands, vec![])
    }

    /// Instructions that add to sums, the first operand, and may read words, the second.
    pub(in super::super) fn with_sums(
        ctx: &mut Context,
        text: &str,
        [sums, words]: [usize; 2],
        operands: Vec<Value>,
    ) -> Self {
        let loaded = 0;
        let counts = Counts {
            sums,
            words,
            loaded,
        };
        Self::build(ctx, text, counts, operands, vec![])
    }

    /// Instructions that load so many words of this unit, the first operand.
    pub(in super::super) fn loading(
        ctx: &mut Context,
        text: &str,
        loaded: usize,
        operands: Vec<Value>,
    ) -> Self {
        let [sums, words] = [0; 2];
        let counts = Counts {
            sums,
            words,
            loaded,
        };
        Self::build(ctx, text, counts, operands, vec![])
    }

    /// An instruction that makes a word of an operand.
    pub(in super::super) fn pure(
        ctx: &mut Context,
        text: &str,
        operand: Value,
        word: TypeHandle,
    ) -> Self {
        Self::build(ctx, text, Counts::default(), vec![operand], vec![word])
    }

    fn build(
        ctx: &mut Context,
        text: &str,
        counts: Counts,
        operands: Vec<Value>,
        results: Vec<TypeHandle>,
    ) -> Self {
        let info = Self::get_concrete_op_info();
        let op = Operation::new(ctx, info, results, operands, vec![], 0);
        let this = Self { op };
        this.set_attr_quest_ptx_text(ctx, text.to_owned().into());
        this.set_attr_quest_ptx_sums(ctx, IndexAttr(counts.sums));
        this.set_attr_quest_ptx_words(ctx, IndexAttr(counts.words));
        this.set_attr_quest_ptx_loaded(ctx, IndexAttr(counts.loaded));
        this
    }

    /// The result of a [`Self::pure`] one.
    pub(in super::super) fn result(&self, ctx: &Context) -> Value {
        self.get_operation().results(ctx)[0]
    }

    pub(super) fn text(&self, ctx: &Context) -> String {
        self.get_attr_quest_ptx_text(ctx).unwrap().clone().into()
    }

    pub(super) fn counts(&self, ctx: &Context) -> Counts {
        Counts {
            sums: self.get_attr_quest_ptx_sums(ctx).unwrap().0,
            words: self.get_attr_quest_ptx_words(ctx).unwrap().0,
            loaded: self.get_attr_quest_ptx_loaded(ctx).unwrap().0,
        }
    }

    pub(super) fn is_pure(&self, ctx: &Context) -> bool {
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
        let Counts { sums, loaded, .. } = self.counts(ctx);
        let mut effects = vec![
            MemoryEffect::ReadAllInSpace(AddressSpace::Shared),
            MemoryEffect::WriteAllInSpace(AddressSpace::Shared),
        ];
        for (i, operand) in self.get_operation().operands(ctx).into_iter().enumerate() {
            if operand.get_type(ctx).deref(ctx).is::<PointerType>() {
                if i > 0 || loaded == 0 {
                    effects.push(MemoryEffect::Read(operand));
                }
                if i == 0 && sums + loaded > 0 {
                    effects.push(MemoryEffect::Write(operand));
                }
            }
        }
        effects
    }
}
