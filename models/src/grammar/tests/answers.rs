//! What answers are taken.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde_json::{Value, json};

use super::{is_allowed, takes, tokenizers};
use crate::{
    grammar::{Grammar, GrammarCompiler, GrammarSource},
    sampling::TokenMask,
    tokenizer::Tokenizer,
};

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

/// Each of those that are said to be.
#[test]
fn annotations_are_taken_and_change_nothing() {
    let (tokenizer, size, stop) = tokenizers().into_iter().next().unwrap();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/a",
        "$comment": "c", "title": "t", "description": "d", "default": "no", "deprecated": true,
        "readOnly": true, "writeOnly": false, "example": "e", "examples": ["e", 3], "x-order": 1,
        "contentMediaType": "text/plain", "contentEncoding": "quoted-printable", "$defs": { "a": {} },
        "definitions": { "a": true }, "discriminator": { "propertyName": "kind" },
        "enum": ["yes", "no"],
    });
    let grammar = compiler.compile(&GrammarSource::json_schema(schema));
    let grammar = grammar.unwrap();
    assert!(takes(&tokenizer, &grammar, "\"yes\""));
    assert!(!takes(&tokenizer, &grammar, "\"maybe\""));
}

#[test]
fn keywords_are_followed_whatever_the_draft_that_a_schema_names() {
    let (tokenizer, size, stop) = tokenizers().into_iter().next().unwrap();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    for draft in [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2020-12/schema",
        "https://example.org/none",
    ] {
        let schema = json!({ "$schema": draft, "prefixItems": [{ "const": 3 }], "type": "array" });
        let grammar = compiler.compile(&GrammarSource::json_schema(schema));
        let grammar = grammar.unwrap();
        assert!(takes(&tokenizer, &grammar, "[3]"), "{draft}");
        assert!(!takes(&tokenizer, &grammar, "[4]"), "{draft}");
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
