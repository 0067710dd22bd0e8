//! What compiling a source will take, told before it is tried.
//!
//! The compiler counts its steps, but looks at the count between steps only, and one step of a hostile
//! source takes minutes: the first byte of `a?a?a?..` may match any of its parts, and where patterns are to
//! match together, every branch of one meets every branch of all others.

mod branches;
mod divisors;
mod keywords;
mod kinds;
mod lark;
mod schema;

use serde_json::Value;

pub(super) use self::branches::Branches;
use self::{lark::Scan, schema::Patterns};
use super::{GrammarLimits, GrammarSource};

/// Why a source is not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// It would take more than may be: what was expected and found.
    Limit(String),
    /// It has what cannot be bounded.
    Unsupported(String),
}

impl Beyond {
    fn at_most(most: impl std::fmt::Display, what: &str, found: f64) -> Self {
        Self::Limit(format!("expected at most {most} {what}, found {found:.0}"))
    }
}

/// Refuses sources that would take too long to compile.
pub(super) fn check_source(source: &GrammarSource, limits: &GrammarLimits) -> Result<(), Beyond> {
    match source {
        GrammarSource::Regex(_) | GrammarSource::JsonObject => Ok(()),
        GrammarSource::JsonSchema(schema) => check_schemas(&[schema], limits),
        GrammarSource::Lark(text) => {
            let scan = Scan::of(text);
            if scan.items > limits.max_rule_items {
                let found = scan.items as f64;
                return Err(Beyond::at_most(
                    limits.max_rule_items,
                    "items of rules",
                    found,
                ));
            }
            check_schemas(&scan.schemas.iter().collect::<Vec<_>>(), limits)
        }
    }
}

fn check_schemas(schemas: &[&Value], limits: &GrammarLimits) -> Result<(), Beyond> {
    for schema in schemas {
        keywords::check(schema)?;
        divisors::check(schema)?;
        let patterns = Patterns::of(schema, limits)?;
        let together = patterns.together()?;
        if together > limits.max_branches as f64 {
            let what = "branches of patterns and formats that have to match together";
            return Err(Beyond::at_most(limits.max_branches, what, together));
        }
    }
    Ok(())
}
