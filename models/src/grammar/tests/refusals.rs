//! Sources that make no sense.

use serde_json::json;

use super::compiler;
use crate::grammar::{GrammarError, GrammarSource};

/// The error of a source.
fn refused(source: &GrammarSource) -> GrammarError {
    compiler().compile(source).unwrap_err()
}

#[test]
fn what_makes_no_sense_is_refused_in_a_line() {
    for (source, problem) in [
        (
            GrammarSource::json_schema(json!({ "type": "thing" })),
            "JSON schema: ",
        ),
        (GrammarSource::json_schema(json!(3)), "JSON schema: "),
        (
            GrammarSource::json_schema(json!({ "$ref": "#/$defs/none" })),
            "JSON schema: ",
        ),
        (
            GrammarSource::json_schema(json!({ "$ref": "https://example.org/schema.json" })),
            "JSON schema: ",
        ),
        (
            GrammarSource::json_schema(
                json!({ "type": "string", "contentEncoding": "base64", "not": {} }),
            ),
            "JSON schema: #: expected keywords that are supported, found `not`",
        ),
        (
            GrammarSource::lark("start: a\na: %json {\"items\": {\"minimun\": 3}}"),
            "grammar: #/items: expected keywords that are supported, found `minimun`",
        ),
        (GrammarSource::json_schema(json!(false)), "JSON schema: "),
        (GrammarSource::regex("("), "regular expression: "),
        (GrammarSource::regex(r"a(?=b)"), "regular expression: "),
        (GrammarSource::lark("begin: \"a\""), "grammar: "),
        (GrammarSource::lark(""), "grammar: "),
        (GrammarSource::lark("start: other"), "grammar: "),
    ] {
        let error = refused(&source).to_string();
        assert!(error.starts_with(problem), "{error}");
        assert!(!error.contains('\n') && error.len() < 500, "{error}");
    }
}
