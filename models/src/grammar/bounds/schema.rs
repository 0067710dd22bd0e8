use std::collections::HashMap;

use llguidance::{
    derivre::{ExprRef, RegexAst, RegexBuilder},
    regex_to_lark,
};
use serde_json::{Map, Value};

use super::{Beyond, Branches, GrammarLimits};

/// Branches of a format such as `email`, in round numbers.
const OF_FORMAT: f64 = 16.0;
/// What matching together with another pattern adds.
const MORE: f64 = 8.0;
/// Patterns for the names of an object's properties at most: the compiler compares each with each.
const MAX_PROPERTY_PATTERNS: usize = 64;
/// Fields whose values are no schemas.
const NO_SCHEMAS: [&str; 7] = [
    "const",
    "enum",
    "default",
    "examples",
    "required",
    "$defs",
    "definitions",
];

/// The patterns of a schema, and which of them have to match together.
pub(super) struct Patterns<'a> {
    root: &'a Value,
    exprs: HashMap<&'a str, ExprRef>,
    branches: Branches,
}

impl<'a> Patterns<'a> {
    pub(super) fn of(root: &'a Value, limits: &GrammarLimits) -> Result<Self, Beyond> {
        let mut builder = RegexBuilder::new();
        let mut exprs = HashMap::new();
        collect(root, true, &mut |pattern| {
            if exprs.contains_key(pattern) {
                return;
            }
            let regex = RegexAst::SearchRegex(regex_to_lark(pattern, "dw"));
            // The compiler says what is wrong with one.
            if let Ok(expr) = builder.mk(&regex) {
                exprs.insert(pattern, expr);
            }
        })?;
        let branches = Branches::of(builder.exprset());
        branches.check(limits)?;
        Ok(Self {
            root,
            exprs,
            branches,
        })
    }

    /// Branches of the patterns that one text has to match, multiplied; the most of any text.
    pub(super) fn together(&self) -> Result<f64, Beyond> {
        self.most(self.root, &mut HashMap::new())
    }

    fn most(
        &self,
        schema: &'a Value,
        known: &mut HashMap<&'a str, Option<f64>>,
    ) -> Result<f64, Beyond> {
        let Value::Object(fields) = schema else {
            let parts = schema.as_array().into_iter().flatten();
            return self.largest(parts, known);
        };
        let mut here = self.own(fields);
        let mut parts = 1.0_f64;
        for (name, value) in fields {
            match (&**name, value) {
                ("allOf", Value::Array(all)) => {
                    for schema in all {
                        here *= self.most(schema, known)?;
                    }
                }
                ("anyOf" | "oneOf", value) => here *= self.most(value, known)?,
                ("$ref", Value::String(reference)) => here *= self.referred(reference, known)?,
                ("properties" | "patternProperties", Value::Object(schemas)) => {
                    parts = parts.max(self.largest(schemas.values(), known)?);
                }
                (name, _) if NO_SCHEMAS.contains(&name) => (),
                (_, value) => parts = parts.max(self.most(value, known)?),
            }
        }
        Ok(here.max(parts))
    }

    fn largest(
        &self,
        schemas: impl Iterator<Item = &'a Value>,
        known: &mut HashMap<&'a str, Option<f64>>,
    ) -> Result<f64, Beyond> {
        let mut most = 1.0_f64;
        for schema in schemas {
            most = most.max(self.most(schema, known)?);
        }
        Ok(most)
    }

    fn own(&self, fields: &Map<String, Value>) -> f64 {
        let pattern = fields.get("pattern").and_then(Value::as_str);
        let pattern = pattern.and_then(|pattern| self.exprs.get(pattern));
        let pattern = pattern.map_or(1.0, |expr| self.branches.get(*expr) + MORE);
        match fields.get("format") {
            Some(Value::String(_)) => pattern * OF_FORMAT,
            _ => pattern,
        }
    }

    fn referred(
        &self,
        reference: &'a str,
        known: &mut HashMap<&'a str, Option<f64>>,
    ) -> Result<f64, Beyond> {
        match known.get(reference) {
            Some(Some(most)) => return Ok(*most),
            // It refers to itself: a part of what is being counted.
            Some(None) => return Ok(1.0),
            None => known.insert(reference, None),
        };
        let Some(target) = target(self.root, reference) else {
            return Err(Beyond::Unsupported(format!(
                "$ref: expected a part of the same schema, such as #/$defs/name, found {reference}"
            )));
        };
        let most = self.most(target, known)?;
        known.insert(reference, Some(most));
        Ok(most)
    }
}

/// What a reference leads to.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    root.pointer(pointer)
        .or_else(|| root.pointer(&percent_decoded(pointer)?))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Hands over each pattern of a schema, whatever it applies to.
fn collect<'a>(
    schema: &'a Value,
    is_root: bool,
    found: &mut impl FnMut(&'a str),
) -> Result<(), Beyond> {
    let fields = match schema {
        Value::Object(fields) => fields,
        Value::Array(schemas) => {
            return schemas
                .iter()
                .try_for_each(|schema| collect(schema, false, found));
        }
        _ => return Ok(()),
    };
    for (name, value) in fields {
        match (&**name, value) {
            ("pattern", Value::String(pattern)) => found(pattern),
            ("$id", Value::String(_)) if !is_root => {
                let problem = "$id: expected none but that of the whole schema, found another one";
                return Err(Beyond::Unsupported(problem.to_owned()));
            }
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    collect(schema, false, found)?;
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                let (most, n) = (MAX_PROPERTY_PATTERNS, schemas.len());
                if n > most {
                    let what = "patterns of names in one object";
                    return Err(Beyond::at_most(most, what, n as f64));
                }
                for (pattern, schema) in schemas {
                    found(pattern);
                    collect(schema, false, found)?;
                }
            }
            ("const" | "enum" | "default" | "examples" | "required", _) => (),
            (_, value) => collect(value, false, found)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn together(schema: &Value) -> Result<f64, Beyond> {
        Patterns::of(schema, &GrammarLimits::default())?.together()
    }

    fn pattern(i: usize) -> Value {
        json!({ "type": "string", "pattern": format!("a.{{{i}}}b") })
    }

    #[test]
    fn patterns_count_together_where_one_text_has_to_match_them() {
        let one = together(&pattern(1)).unwrap();
        assert!((10.0..40.0).contains(&one), "{one}");
        let apart = json!({
            "properties": (0..20).map(|i| (i.to_string(), pattern(i))).collect::<Map<_, _>>(),
            "items": { "anyOf": [pattern(1), pattern(2)] },
        });
        assert_eq!(together(&apart), Ok(one));
        assert_eq!(
            together(&json!({ "allOf": [pattern(1), pattern(2)] })),
            Ok(one * one)
        );
        // Of properties of the same name in two schemas, also where they are referred to.
        let base = json!({ "properties": { "a": pattern(1) } });
        let both = json!({
            "$defs": { "a b": base }, "allOf": [{ "$ref": "#/$defs/a%20b" }, base],
        });
        assert_eq!(together(&both), Ok(one * one));
        let beside = json!({ "pattern": "^x.*$", "anyOf": [pattern(1), { "format": "email" }] });
        assert!(together(&beside).unwrap() > 100.0);
    }

    #[test]
    fn a_chain_of_references_counts_whole() {
        let links = (0..20).map(|i| {
            let next = format!("#/$defs/{}", i + 1);
            (
                i.to_string(),
                json!({ "allOf": [{ "$ref": next }, pattern(i)] }),
            )
        });
        let mut links = links.collect::<Map<_, _>>();
        links.insert("20".into(), json!({}));
        let chain = json!({ "$ref": "#/$defs/0", "$defs": links });
        assert!(together(&chain).unwrap() > 1e20);
        let list = json!({
            "properties": { "next": { "$ref": "#" }, "name": pattern(1) },
            "anyOf": [{ "$ref": "#" }, { "type": "null" }],
        });
        assert!(together(&list).unwrap() < 100.0);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for schema in [
            json!({ "$ref": "https://example.org/a.json" }),
            json!({ "$ref": "#name", "$anchor": "name" }),
            json!({ "properties": { "a": { "$id": "b", "type": "null" } } }),
        ] {
            assert!(
                matches!(together(&schema), Err(Beyond::Unsupported(_))),
                "{schema}"
            );
        }
        // Names of properties are no keywords.
        let named = json!({ "$id": "x", "properties": { "$id": { "type": "null" }, "$ref": { "type": "null" } } });
        assert_eq!(together(&named), Ok(1.0));
    }
}
