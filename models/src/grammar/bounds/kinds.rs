//! What an expression of derivre is: a choice, a repetition, ..
//!
//! The type of its tags has no name outside of its crate, so a tag is known by that of a sample, which
//! is made as such an expression.

use std::sync::LazyLock;

use llguidance::derivre::{ExprRef, raw::ExprSet};

/// Kinds of expressions, as far as their branches are counted in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first byte decides, or there is none.
    Bytes,
    /// A repetition or a lookahead, of one part.
    Wrapped,
    Concat,
    Or,
    And,
    Not,
}

/// The kind of each tag, by its number.
pub(super) struct Kinds([Option<Kind>; 256]);

static KNOWN: LazyLock<Kinds> = LazyLock::new(|| {
    let mut exprs = ExprSet::new(256);
    let samples = samples(&mut exprs);
    let mut kinds = Kinds::none();
    for (expr, kind) in samples {
        kinds.0[number(&exprs, expr)] = Some(kind);
    }
    kinds
});

impl Kinds {
    /// Those of this version of derivre.
    pub(super) fn known() -> &'static Self {
        &KNOWN
    }

    /// No kind is known.
    pub(super) fn none() -> Self {
        Self([None; 256])
    }

    /// The kind of an expression of the set, if it is known.
    pub(super) fn get(&self, exprs: &ExprSet, expr: ExprRef) -> Option<Kind> {
        self.0[number(exprs, expr)]
    }
}

fn number(exprs: &ExprSet, expr: ExprRef) -> usize {
    usize::from(exprs.get_tag(expr) as u8)
}

/// One expression of each tag, none of which derivre makes simpler.
fn samples(exprs: &mut ExprSet) -> [(ExprRef, Kind); 12] {
    let byte = exprs.mk_byte(b'a');
    let text = exprs.mk_literal("bc");
    let repeated = exprs.mk_repeat(byte, 2, 5);
    [
        (ExprRef::EMPTY_STRING, Kind::Bytes),
        (ExprRef::NO_MATCH, Kind::Bytes),
        (byte, Kind::Bytes),
        (ExprRef::ANY_BYTE, Kind::Bytes),
        (text, Kind::Bytes),
        (exprs.mk_remainder_is(7, 7, 0, false), Kind::Bytes),
        (repeated, Kind::Wrapped),
        (exprs.mk_lookahead(text, 0), Kind::Wrapped),
        (exprs.mk_concat(repeated, text), Kind::Concat),
        (exprs.mk_or(&mut vec![repeated, text]), Kind::Or),
        (exprs.mk_and(&mut vec![repeated, text]), Kind::And),
        (exprs.mk_not(text), Kind::Not),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_sample_has_a_tag_of_its_own_and_the_parts_that_it_is_made_of() {
        let mut exprs = ExprSet::new(256);
        let samples = samples(&mut exprs);
        let tags = samples.map(|(expr, _)| number(&exprs, expr));
        assert_eq!(HashSet::from(tags).len(), samples.len(), "{tags:?}");
        for (expr, kind) in samples {
            let parts = exprs.get_args(expr).len();
            let is_right = match kind {
                Kind::Bytes => parts <= 1,
                Kind::Wrapped | Kind::Not => parts == 1,
                Kind::Concat | Kind::Or | Kind::And => parts == 2,
            };
            assert!(is_right, "{kind:?} of {parts} parts");
            assert_eq!(Kinds::known().get(&exprs, expr), Some(kind));
        }
    }
}
