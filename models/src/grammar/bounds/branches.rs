use llguidance::derivre::{ExprRef, raw::ExprSet};

use super::{
    Beyond, GrammarLimits,
    kinds::{Kind, Kinds},
};

/// Regular expressions of fewer branches are not counted: they are what most are.
const FEW: f64 = 16.0;

/// Between how many continuations the next byte decides, for each regular expression of a set.
pub(in super::super) struct Branches {
    /// By the expressions' ids.
    branches: Vec<f64>,
    /// Of all expressions that have more than a few.
    total: f64,
}

impl Branches {
    pub(in super::super) fn of(exprs: &ExprSet) -> Self {
        Self::with_kinds(exprs, Kinds::known())
    }

    fn with_kinds(exprs: &ExprSet, kinds: &Kinds) -> Self {
        let mut counted = Self {
            branches: vec![0.0; exprs.len()],
            total: 0.0,
        };
        for id in 0..exprs.len() as u32 {
            let expr = ExprRef::new(id);
            // 0 is no expression.
            if !exprs.is_valid(expr) {
                continue;
            }
            let (branches, work) = counted.count(exprs, expr, kinds.get(exprs, expr));
            counted.branches[id as usize] = branches;
            if work >= FEW {
                counted.total += work;
            }
        }
        counted
    }

    /// Branches of one expression, the parts of which were counted before, and what finding them takes.
    fn count(&self, exprs: &ExprSet, expr: ExprRef, kind: Option<Kind>) -> (f64, f64) {
        let parts = exprs.get_args(expr);
        let of_parts = || parts.iter().map(|part| self.get(*part));
        match kind {
            // Another version of derivre has it: there is no bound.
            None => (f64::INFINITY, f64::INFINITY),
            Some(Kind::Bytes) => (1.0, 1.0),
            Some(Kind::Wrapped) => (of_parts().sum(), 1.0),
            Some(Kind::Concat) => {
                let seen = match exprs.is_nullable(parts[0]) {
                    true => of_parts().sum(),
                    false => self.get(parts[0]),
                };
                (seen, seen)
            }
            Some(Kind::Or) => {
                let sum = of_parts().sum::<f64>();
                (sum, sum)
            }
            // Each branch of a part meets each of the others, which are a few more after some bytes.
            Some(Kind::And) => {
                let product = of_parts().map(|branches| branches + 8.0).product::<f64>();
                (parts.len() as f64, product)
            }
            Some(Kind::Not) => {
                let branches = of_parts().sum::<f64>();
                (branches + 1.0, branches * branches)
            }
        }
    }

    /// Branches of an expression of the set.
    pub(super) fn get(&self, expr: ExprRef) -> f64 {
        self.branches[expr.as_usize()]
    }

    pub(in super::super) fn check(&self, limits: &GrammarLimits) -> Result<(), Beyond> {
        match self.total > limits.max_branches as f64 {
            false => Ok(()),
            true => Err(Beyond::at_most(
                limits.max_branches,
                "branches of regular expressions",
                self.total,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use llguidance::derivre::{RegexAst, RegexBuilder};

    use super::*;

    fn total(pattern: &str) -> f64 {
        let mut builder = RegexBuilder::new();
        builder.mk_regex(pattern).unwrap();
        Branches::of(builder.exprset()).total
    }

    #[test]
    fn parts_that_may_be_absent_add_up() {
        assert_eq!(total(&"ab".repeat(5000)), 0.0);
        assert_eq!(total(&"[a-z]".repeat(5000)), 0.0);
        assert_eq!(total("a{1,1000}b{0,1000}"), 0.0);
        // 1 + 2 + .. + 100, without the first few.
        let optional = total(&"a?".repeat(100));
        assert!((4800.0..=5050.0).contains(&optional), "{optional}");
        assert!(total(&"(a|bc)?".repeat(1000)) > 400_000.0);
        assert!(total(&(0..500).map(|i| format!("w{i}|")).collect::<String>()) < 100.0);
    }

    #[test]
    fn an_expression_of_an_unknown_kind_has_no_bound() {
        let mut builder = RegexBuilder::new();
        builder.mk_regex("a").unwrap();
        let limits = GrammarLimits::default();
        let known = Branches::of(builder.exprset());
        assert_eq!(known.check(&limits), Ok(()));
        let unknown = Branches::with_kinds(builder.exprset(), &Kinds::none());
        assert!(matches!(unknown.check(&limits), Err(Beyond::Limit(_))));
    }

    #[test]
    fn branches_of_what_has_to_match_together_are_multiplied() {
        let together = |n: usize| {
            let mut builder = RegexBuilder::new();
            let parts = (0..n).map(|i| RegexAst::Regex(format!(".*a.{{{i}}}b.*")));
            builder.mk(&RegexAst::And(parts.collect())).unwrap();
            Branches::of(builder.exprset()).total
        };
        assert!(together(3) < 1e5, "{}", together(3));
        assert!(together(12) > 1e12, "{}", together(12));
    }
}
