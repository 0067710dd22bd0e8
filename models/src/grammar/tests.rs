use std::{path::Path, time::Duration};

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde_json::{Value, json};

use super::*;
use crate::{
    sampling::TokenMask,
    tokenizer::{
        Tokenizer,
        sentencepiece::{Piece, PieceKind, Pieces},
    },
};

/// Bytes that are merged, as GPT-2 has it; 1 ends a text.
fn byte_level() -> Tokenizer {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
    Tokenizer::from_dir(Path::new(dir)).unwrap()
}

/// Pieces of SentencePiece: `<unk>`, `<s>`, `</s>`, the bytes, characters and a few words with their spaces.
fn sentencepiece() -> Tokenizer {
    let piece = |text: &str, kind| Piece {
        text: text.to_owned(),
        score: -(text.len() as f32),
        kind,
    };
    let mut pieces = vec![
        piece("<unk>", PieceKind::Unknown),
        piece("<s>", PieceKind::Control),
        piece("</s>", PieceKind::Control),
    ];
    pieces.extend((0..=255u8).map(|byte| piece(&format!("<0x{byte:02X}>"), PieceKind::Byte)));
    let characters = (' '..='~').filter(|c| *c != ' ').map(|c| c.to_string());
    pieces.extend(characters.map(|text| piece(&text, PieceKind::Normal)));
    for text in [
        "\u{2581}",
        "\u{2581}the",
        "the",
        "\u{2581}\u{2581}",
        "\":\u{2581}\"",
        "\u{e9}",
    ] {
        pieces.push(piece(text, PieceKind::Normal));
    }
    let pieces = Pieces {
        pieces,
        add_space_prefix: true,
        before: Some(1),
        behind: None,
    };
    pieces.tokenizer().unwrap()
}

/// A tokenizer, tokens of its vocabulary, and the one that ends a text.
fn tokenizers() -> [(Tokenizer, usize, u32); 2] {
    let size = |tokenizer: &Tokenizer| {
        (0..)
            .take_while(|id| tokenizer.token(*id).is_some())
            .count()
    };
    let (first, second) = (byte_level(), sentencepiece());
    let sizes = [size(&first), size(&second)];
    [(first, sizes[0], 1), (second, sizes[1], 2)]
}

fn compiler() -> GrammarCompiler {
    let [(tokenizer, size, stop), _] = tokenizers();
    GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap()
}

fn is_allowed(words: &[u32], id: u32) -> bool {
    words
        .get(id as usize / 32)
        .is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Whether a matcher takes a text whole, token by token, and may end there.
fn takes(tokenizer: &Tokenizer, grammar: &Grammar, text: &str) -> bool {
    let mut matcher = grammar.matcher();
    // What follows a line break has no space of a beginning.
    let newline = tokenizer.encode_continuation("\n").unwrap();
    let ids = tokenizer.encode_continuation(&format!("\n{text}")).unwrap();
    for &id in &ids[newline.len()..] {
        if matcher.is_complete() || !is_allowed(&matcher.allowed().unwrap(), id) {
            return false;
        }
        matcher.accept(id).unwrap();
    }
    matcher.may_end().unwrap()
}

/// An answer of tokens that are drawn from those that are allowed, evenly.
fn drawn(tokenizer: &Tokenizer, grammar: &Grammar, seed: u64) -> Option<String> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut matcher = grammar.matcher();
    let anchor = tokenizer.encode_continuation("a").unwrap();
    let mut ids = anchor.clone();
    for _ in 0..2000 {
        let words = matcher.allowed().unwrap();
        let allowed = (0..words.len() as u32 * 32).filter(|id| is_allowed(&words, *id));
        let allowed = allowed.collect::<Vec<_>>();
        let id = allowed[rng.random_range(0..allowed.len())];
        matcher.accept(id).unwrap();
        ids.push(id);
        if matcher.is_complete() {
            let text = tokenizer.decode(&ids).unwrap();
            let before = tokenizer.decode(&anchor).unwrap();
            return Some(text.strip_prefix(&before).unwrap().to_owned());
        }
    }
    None
}

#[test]
fn tokens_have_the_bytes_that_they_are_decoded_to() {
    for (tokenizer, size, _) in tokenizers() {
        let tokens = vocabulary::token_bytes(&tokenizer, size + 3).unwrap();
        assert_eq!(tokens.len(), size + 3);
        assert!(tokens[size..].iter().all(Vec::is_empty));
        let special = tokenizer.added_tokens();
        let anchor = tokenizer.encode_continuation("a").unwrap();
        let before = tokenizer.decode(&anchor).unwrap();
        for (id, bytes) in (0..size as u32).zip(&tokens) {
            if special
                .iter()
                .any(|token| token.id == id && token.is_special)
            {
                assert_eq!(bytes[0], 0xff);
                continue;
            }
            let text = tokenizer.decode(&[&anchor[..], &[id]].concat()).unwrap();
            let text = text.strip_prefix(&before).unwrap();
            assert_eq!(String::from_utf8_lossy(bytes), text, "{id}");
        }
    }
}

#[test]
fn whatever_is_drawn_is_what_the_schema_says() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "kind": { "enum": ["the cat", "dog \u{e9}\u{1f30d}"] },
            "tags": { "type": "array", "items": { "type": "boolean" }, "maxItems": 3 },
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": false,
    });
    for (tokenizer, size, stop) in tokenizers() {
        let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
        let grammar = compiler.compile(&GrammarSource::json_schema(schema.clone()));
        let grammar = grammar.unwrap();
        let mut ended = 0;
        for seed in 0..40 {
            let Some(text) = drawn(&tokenizer, &grammar, seed) else {
                continue;
            };
            ended += 1;
            let value = serde_json::from_str::<Value>(&text);
            let value = value.unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(
                value["name"].as_str().unwrap().chars().count() <= 8,
                "{text}"
            );
            assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
            assert!(["the cat", "dog \u{e9}\u{1f30d}"].contains(&value["kind"].as_str().unwrap()));
            assert!(
                value["tags"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(Value::is_boolean)
            );
            assert_eq!(value.as_object().unwrap().len(), 4, "{text}");
        }
        assert!(ended > 20, "{ended} ended");
    }
}

#[test]
fn each_kind_of_grammar_takes_what_it_should() {
    for (tokenizer, size, stop) in tokenizers() {
        let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
        let takes = |source: &GrammarSource, text: &str| {
            takes(&tokenizer, &compiler.compile(source).unwrap(), text)
        };
        let any = GrammarSource::JsonObject;
        assert!(takes(
            &any,
            "{\"a\": [1, {\"b\": null}], \"the\": \"x \u{e9}\"}"
        ));
        assert!(takes(&any, "{\n  \"a\": 1\n}"));
        assert!(!takes(&any, "[1]") && !takes(&any, "{\"a\": 1"));
        let code = GrammarSource::regex(r"the code is [0-9]{3}/[a-f]+");
        assert!(takes(&code, "the code is 407/ab"));
        assert!(!takes(&code, "the code is 4075/ab") && !takes(&code, "the code is 407/"));
        let sum =
            GrammarSource::lark("start: term (\"+\" term)*\nterm: /[0-9]+/ | \"(\" start \")\"");
        assert!(takes(&sum, "1+(23+4)"));
        assert!(!takes(&sum, "1+(23+4"));
        let choice = GrammarSource::choice(["yes \"sir\"", "no"]);
        assert!(takes(&choice, "yes \"sir\"") && takes(&choice, "no"));
        assert!(!takes(&choice, "yes"));
    }
}

#[test]
fn an_answer_is_complete_when_nothing_may_follow() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let grammar = compiler
        .compile(&GrammarSource::regex("[0-9]{2,3}"))
        .unwrap();
    let mut matcher = grammar.matcher();
    let digit = tokenizer.encode_continuation("4").unwrap()[0];
    for (n, may_end) in [(1, false), (2, true)] {
        matcher.accept(digit).unwrap();
        assert_eq!((matcher.may_end(), n), (Ok(may_end), n));
        assert_eq!(is_allowed(&matcher.allowed().unwrap(), stop), may_end);
        assert!(!matcher.is_complete());
    }
    let mut other = matcher.clone();
    matcher.accept(digit).unwrap();
    assert!(matcher.is_complete(), "three digits are all");
    other.accept(stop).unwrap();
    assert!(other.is_complete(), "the end was chosen");
    assert!(
        !grammar.matcher().is_complete(),
        "another answer begins anew"
    );
}

#[test]
fn a_model_without_stop_tokens_ends_by_the_grammar() {
    let [(tokenizer, size, _), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[]).unwrap();
    let grammar = compiler.compile(&GrammarSource::JsonObject).unwrap();
    let mut matcher = grammar.matcher();
    for id in tokenizer.encode_continuation("{}").unwrap() {
        matcher.accept(id).unwrap();
    }
    assert!(matcher.is_complete());
}

#[test]
fn special_tokens_are_no_text() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let grammar = compiler.compile(&GrammarSource::regex("(?s:.)*")).unwrap();
    let words = grammar.matcher().allowed().unwrap();
    let begin = tokenizer.id("<s>").unwrap();
    assert!(!is_allowed(&words, begin) && is_allowed(&words, stop));
    assert!(is_allowed(&words, tokenizer.id("<").unwrap()));
}

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
            "JSON schema: ",
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

/// Whether a source is beyond the limits, and not tried or given up.
fn is_beyond(error: &GrammarError) -> bool {
    use GrammarError::{Depth, Size, TooComplex};
    matches!(error, Size { .. } | Depth { .. } | TooComplex { .. })
}

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

#[test]
fn a_choice_may_be_empty_and_its_texts_may_begin_alike() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let takes = |texts: &[&str], text: &str| {
        let choice = GrammarSource::choice(texts);
        takes(&tokenizer, &compiler.compile(&choice).unwrap(), text)
    };
    assert!(takes(&["a", "ab", "abc"], "ab") && takes(&["a", "ab", "abc"], "a"));
    assert!(!takes(&["a", "abc"], "ab"));
    assert!(takes(&["", "a"], "") && takes(&["", "a"], "a") && !takes(&["a"], ""));
    assert!(takes(&[""], "") && !takes(&[""], "a"));
}

#[test]
fn masks_of_a_hostile_grammar_end_with_an_error_or_the_answer() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    // Each is small, and ambiguous beyond what can be followed.
    for source in [
        GrammarSource::regex("((a{1,1000}){1,1000}){1,1000}"),
        GrammarSource::regex("(?:.{1,500}a.{1,500}b){400}"),
        GrammarSource::lark("start: \"a\"{100000} start{100000}"),
        GrammarSource::json_schema(
            json!({ "type": "string", "pattern": "^(a|b|ab)*c{1,90000}$", "maxLength": 90000 }),
        ),
        GrammarSource::lark("start: start start | \"a\" | \"a\" \"a\" | start start start"),
        GrammarSource::regex("(.*a.{20}|.*b.{19}|.*c.{21})*"),
        GrammarSource::lark("start: x{0,500}\nx: \"a\"? \"a\"? \"a\"? y\ny: x? \"a\" x? | \"a\""),
    ] {
        let Ok(grammar) = compiler.compile(&source) else {
            continue;
        };
        let mut matcher = grammar.matcher();
        let id = tokenizer.encode_continuation("a").unwrap()[0];
        for _ in 0..40 {
            if let Err(error) = matcher.allowed().and_then(|_| matcher.accept(id)) {
                assert!(!error.contains('\n') && error.len() < 500, "{error}");
                break;
            }
        }
    }
}

#[test]
fn a_mask_that_takes_too_long_ends_its_answer_only() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let grammar = compiler.compile(&GrammarSource::regex("[0-9]{3}")).unwrap();
    let mut hurried = grammar.matcher();
    hurried.hurry(Duration::ZERO);
    let error = hurried.allowed().unwrap_err();
    assert_eq!(
        error,
        "expected at most 0 ms for a token, found more: the grammar is too complex"
    );
    assert_eq!(hurried.allowed(), Err(error), "it stays so");
    assert!(!hurried.is_complete());
    assert!(grammar.matcher().allowed().is_ok());
    let limits = GrammarLimits {
        mask_time: Duration::ZERO,
        ..GrammarLimits::default()
    };
    let compiled = compiler
        .with_limits(limits)
        .compile(&GrammarSource::JsonObject);
    assert!(is_beyond(&compiled.unwrap_err()));
}

#[test]
fn sources_that_come_again_are_not_compiled_again() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let source = |i: usize| GrammarSource::regex(format!("[0-9]{{{}}}", i + 1));
    for i in 0..40 {
        assert!(compiler.compile(&source(i)).is_ok());
        // It is used again and again, and stays.
        let first = compiler.compile(&source(0)).unwrap();
        assert!(takes(&tokenizer, &first, "7") && !takes(&tokenizer, &first, "77"));
    }
    assert!(compiler.compile(&GrammarSource::regex("(")).is_err());
    assert_eq!(compiler.cache.len(), 16);
    assert!(compiler.cache.get(&source(0)).is_some());
    assert!(compiler.cache.get(&source(39)).is_some());
    assert!(compiler.cache.get(&source(1)).is_none());
    assert!(
        compiler.clone().cache.get(&source(0)).is_some(),
        "clones share it"
    );
    let other = compiler.with_limits(GrammarLimits::default());
    assert_eq!(other.cache.len(), 0, "other limits compile anew");
}

#[test]
fn calls_follow_the_schema_in_the_form_of_a_family() {
    let add = FunctionSchema {
        name: "add".into(),
        parameters: Some(json!({
            "type": "object",
            "properties": { "a": { "type": "integer" } },
            "required": ["a"],
            "additionalProperties": false,
        })),
    };
    let now = FunctionSchema {
        name: "now".into(),
        parameters: None,
    };
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    for (form, once, twice) in [
        (
            CallForm::Tagged,
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        ),
        (
            CallForm::Listed,
            "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}}]",
            "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}}, \
             {\"name\": \"now\", \"arguments\": {\"b\": 2}}]",
        ),
        (
            CallForm::Named,
            "[TOOL_CALLS]add[ARGS]{\"a\": 1}",
            "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]now[ARGS]{}",
        ),
        (
            CallForm::Object,
            "{\"name\": \"add\", \"parameters\": {\"a\": 1}}",
            "{\"name\": \"add\", \"parameters\": {\"a\": 1}}; {\"name\": \"now\", \"parameters\": {}}",
        ),
        (
            CallForm::Function,
            "<function=add>{\"a\": 1}</function>",
            "<function=add>{\"a\": 1}</function><function=now>{}</function>",
        ),
    ] {
        let grammar = |allows_text, allows_several| {
            let calls = ToolCalls {
                form,
                functions: vec![add.clone(), now.clone()],
                allows_text,
                allows_several,
            };
            compiler.compile(&calls.source(&tokenizer)).unwrap()
        };
        let forced = grammar(false, true);
        let takes = |grammar: &Grammar, text: &str| takes(&tokenizer, grammar, text);
        assert!(takes(&forced, once) && takes(&forced, twice), "{form:?}");
        assert!(!takes(&forced, &once.replace("\"a\": 1", "\"a\": true")));
        assert!(!takes(&forced, &once.replace("add", "sub")));
        assert!(!takes(&forced, "The sum is 3.") && !takes(&forced, ""));
        let single = grammar(false, false);
        assert!(takes(&single, once) && !takes(&single, twice), "{form:?}");
        let free = grammar(true, false);
        assert!(
            takes(&free, "The sum is 3.") && takes(&free, once),
            "{form:?}"
        );
        assert!(takes(&free, ""), "{form:?}");
        assert!(!takes(&free, twice), "{form:?}");
        assert!(
            !takes(&free, &once.replace("\"a\": 1", "\"a\": true")),
            "{form:?}"
        );
    }
}

#[test]
fn the_form_of_calls_is_what_a_template_shows() {
    for (template, form) in [
        ("{{ '<tool_call>\\n' }}", Some(CallForm::Tagged)),
        ("[TOOL_CALLS] [", Some(CallForm::Listed)),
        ("[TOOL_CALLS]{{ name }}[ARGS]", Some(CallForm::Named)),
        (
            "{\"name\": function name, \"parameters\": {..}}",
            Some(CallForm::Object),
        ),
        ("<function=example>", Some(CallForm::Function)),
        ("{{ message.content }}", None),
    ] {
        assert_eq!(CallForm::of_template(template), form, "{template}");
    }
}
