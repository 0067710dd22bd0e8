//! Sources that take much to compile, and large ones that do not.

use serde_json::{Value, json};

use super::{compiler, is_beyond, tokenizers};
use crate::{
    grammar::{GrammarError, GrammarSource},
    sampling::TokenMask,
};

fn in_brief(source: &GrammarSource) -> String {
    format!("{source:?}").chars().take(120).collect()
}

/// Properties by their numbers.
fn properties(n: usize, of: impl Fn(usize) -> Value) -> Value {
    (0..n)
        .map(|i| (format!("p{i}"), of(i)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn what_is_beyond_the_limits_is_refused() {
    let nested = |n: usize| {
        (0..n).fold(
            json!({}),
            |deep, _| json!({ "type": "array", "items": deep }),
        )
    };
    let pattern = |i: usize| json!({ "type": "string", "pattern": format!("a.{{{i}}}b") });
    let chain = (0..40).map(|i| {
        let next = format!("#/$defs/d{}", i + 1);
        (
            format!("d{i}"),
            json!({ "allOf": [{ "$ref": next }, pattern(i)] }),
        )
    });
    let mut chain = chain.collect::<serde_json::Map<_, _>>();
    chain.insert("d40".into(), json!({}));
    let chain = json!({ "$ref": "#/$defs/d0", "$defs": chain });
    let compiler = compiler();
    for source in [
        GrammarSource::json_schema(nested(100)),
        GrammarSource::json_schema(
            json!({ "type": "object", "properties": properties(8_000, |i| json!({ "enum": [i] })) }),
        ),
        GrammarSource::json_schema(
            json!({ "type": "object", "properties": properties(4_000, |_| json!(true)) }),
        ),
        GrammarSource::json_schema(json!({ "enum": ["a".repeat(300_000)] })),
        GrammarSource::json_schema(json!({ "allOf": (0..500).map(pattern).collect::<Vec<_>>() })),
        GrammarSource::json_schema(chain.clone()),
        GrammarSource::json_schema(json!({ "pattern": "a?".repeat(50_000) })),
        GrammarSource::json_schema(json!({ "type": "integer", "multipleOf": 99_991 })),
        GrammarSource::json_schema(
            json!({ "patternProperties": properties(5_000, |_| json!(true)) }),
        ),
        GrammarSource::json_schema(
            json!({ "anyOf": (0..2_500).map(|i| json!({ "properties": { (format!("k{i}")): { "const": i } } })).collect::<Vec<_>>() }),
        ),
        GrammarSource::regex("(".repeat(10_000)),
        GrammarSource::regex("a?".repeat(60_000)),
        GrammarSource::regex("a*".repeat(60_000)),
        GrammarSource::regex("a*b*".repeat(3_000)),
        GrammarSource::regex("(a|bc)?".repeat(10_000)),
        GrammarSource::regex(r"\p{L}?".repeat(2_000)),
        GrammarSource::regex(format!("b{}", "a?".repeat(50_000))),
        GrammarSource::lark(format!(
            "start: {}\"a\"{}",
            "(".repeat(500),
            ")".repeat(500)
        )),
        GrammarSource::lark(format!("start: {}", "\"a\"? ".repeat(18_000))),
        GrammarSource::lark(format!("start: x\nx: %json {chain}")),
        GrammarSource::lark(format!(
            "start: A\nA: /(?s:.*)/ & {}",
            (0..2_000)
                .map(|i| format!("~/(?s:.*)a.{{{i}}}b(?s:.*)/"))
                .collect::<Vec<_>>()
                .join(" & ")
        )),
        GrammarSource::lark(format!(
            "start: A\nA: {}",
            (0..20)
                .map(|i| format!("/.*a.{{{i}}}b.*/"))
                .collect::<Vec<_>>()
                .join(" & ")
        )),
        GrammarSource::lark(format!(
            "start: %regex {{ \"substring_chars\": \"{}\" }}",
            "abcab ".repeat(18_000)
        )),
    ] {
        let error = compiler.compile(&source).expect_err(&in_brief(&source));
        assert!(is_beyond(&error), "{error}: {}", in_brief(&source));
        let error = error.to_string();
        assert!(
            error.contains("expected ") && error.contains("found "),
            "{error}"
        );
        assert!(!error.contains('\n') && error.len() < 500, "{error}");
    }
}

#[test]
fn large_sources_that_take_little_are_compiled() {
    let words = |n: usize| (0..n).map(|i| format!("word {i}"));
    let tool = |i: usize| {
        json!({
            "type": "object", "additionalProperties": false, "required": ["p0", "p1"],
            "properties": properties(8, |j| json!({ "type": "string", "description": format!("{i} and {j}") })),
        })
    };
    let compiler = compiler();
    for source in [
        GrammarSource::json_schema(json!({ "enum": words(5_000).collect::<Vec<_>>() })),
        GrammarSource::json_schema(json!({ "anyOf": (0..100).map(tool).collect::<Vec<_>>() })),
        GrammarSource::json_schema(
            json!({ "type": "array", "items": { "type": "integer" }, "maxItems": 100_000 }),
        ),
        GrammarSource::json_schema(
            json!({ "type": "array", "items": { "type": "integer" }, "minItems": 100_000 }),
        ),
        GrammarSource::json_schema(
            json!({ "type": "string", "minLength": 1, "maxLength": 100_000 }),
        ),
        GrammarSource::json_schema(
            json!({ "type": "string", "pattern": "^[a-z]+(-[a-z0-9]+)*$", "maxLength": 80 }),
        ),
        GrammarSource::json_schema(json!({ "type": "object", "properties": {
            "mail": { "type": "string", "format": "email" }, "at": { "type": "string", "format": "date-time" },
            "of": { "type": "string", "format": "uuid" }, "from": { "type": "string", "format": "uri" },
            "host": { "type": "string", "format": "ipv6" },
        } })),
        GrammarSource::regex("a{1,100000}"),
        GrammarSource::regex(r"(\w{1,100} ){0,1000}"),
        GrammarSource::regex("abcdefgh".repeat(10_000)),
        GrammarSource::regex(words(10_000).collect::<Vec<_>>().join("|")),
        GrammarSource::regex(r"(\w+\.)?".repeat(20)),
        GrammarSource::choice(words(8_000)),
        GrammarSource::lark(
            (0..500)
                .map(|i| format!("r{i}: \"{i}\" r{} | \"x\"\n", i + 1))
                .collect::<String>()
                + "r500: \"a\"\nstart: r0",
        ),
    ] {
        let compiled = compiler.compile(&source);
        compiled.unwrap_or_else(|error| panic!("{error}: {}", in_brief(&source)));
    }
}

#[test]
fn long_chains_do_not_overflow_the_stack() {
    let chain = |link: fn(usize) -> Value| {
        let definitions = (0..1500).map(|i| (format!("d{i}"), link(i + 1)));
        let mut definitions = definitions.collect::<serde_json::Map<_, _>>();
        definitions.insert("d1500".into(), json!({ "type": "integer" }));
        GrammarSource::json_schema(json!({ "$ref": "#/$defs/d0", "$defs": definitions }))
    };
    let rules = |name: &str, n: usize| {
        let rules = (0..n).map(|i| format!("{name}{i}: {name}{}\n", i + 1));
        rules.collect::<String>() + &format!("{name}{n}: \"a\"\n")
    };
    let [(tokenizer, _, _), _] = tokenizers();
    let compiler = compiler();
    for source in [
        chain(|i| json!({ "$ref": format!("#/$defs/d{i}") })),
        chain(|i| json!({ "allOf": [{ "$ref": format!("#/$defs/d{i}") }, { "minimum": 1 }] })),
        chain(|i| json!({ "anyOf": [{ "$ref": format!("#/$defs/d{i}") }, { "type": "null" }] })),
        chain(|i| json!({ "type": "array", "items": { "$ref": format!("#/$defs/d{i}") } })),
        chain(|i| json!({ "properties": { "a": { "$ref": format!("#/$defs/d{i}") } } })),
        GrammarSource::lark(format!("start: a0\n{}", rules("a", 3_900))),
        GrammarSource::lark(format!("start: A0\n{}", rules("A", 8_000))),
        GrammarSource::regex("a|".repeat(60_000)),
        GrammarSource::regex("(a".repeat(60) + &")*".repeat(60)),
    ] {
        match compiler.compile(&source) {
            // Masks are computed on threads with little stack.
            Ok(grammar) => {
                let mut matcher = grammar.matcher();
                let id = tokenizer.encode_continuation("a").unwrap()[0];
                for _ in 0..3 {
                    if matcher.allowed().and_then(|_| matcher.accept(id)).is_err() {
                        break;
                    }
                }
            }
            Err(GrammarError::Size { .. }) => panic!("it should be tried"),
            Err(error) => assert!(is_beyond(&error), "{error}: {}", in_brief(&source)),
        }
    }
}
