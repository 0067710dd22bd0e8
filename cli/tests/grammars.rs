//! Answers that follow a grammar, whatever the model: this one has random weights, and its tokens are bytes.

#![cfg(all(feature = "grammar", feature = "flex"))]

mod common;

use common::Checkpoint;
use serde_json::{Value, json};

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "town": { "enum": ["Ulm", "Rome"] },
        "people": { "type": "integer", "minimum": 1, "maximum": 999 }
    },
    "required": ["town", "people"],
    "additionalProperties": false
}"#;

fn generated(checkpoint: &Checkpoint, options: &[&str]) -> Value {
    let args = [
        "--prompt",
        "a",
        "--max-new-tokens",
        "200",
        "--temperature",
        "1",
        "--seed",
        "3",
    ];
    checkpoint.run_json("generate", &[&args, options].concat())
}

#[test]
fn an_answer_follows_the_grammar_and_ends_with_it() {
    let checkpoint = Checkpoint::of_bytes();
    let code = generated(&checkpoint, &["--regex", "[0-9]{3}-[a-c]{2}"]);
    let text = code["text"].as_str().unwrap();
    assert_eq!((text.len(), &text[3..4]), (6, "-"), "{text}");
    assert_eq!(code["finish"], "stop");

    let sum = checkpoint.write(
        "sum.lark",
        "start: term \"+\" term\nterm: /[0-9]{1,2}/ | \"(\" start \")\"",
    );
    let sum = generated(&checkpoint, &["--grammar", sum.to_str().unwrap()]);
    let text = sum["text"].as_str().unwrap();
    assert!(text.contains('+') || sum["finish"] == "length", "{text}");
    assert!(text.chars().all(|c| "0123456789+()".contains(c)), "{text}");

    let schema = checkpoint.write("schema.json", SCHEMA);
    let object = generated(&checkpoint, &["--json-schema", schema.to_str().unwrap()]);
    let text = object["text"].as_str().unwrap();
    if object["finish"] == "stop" {
        let value = serde_json::from_str::<Value>(text).unwrap();
        assert!(["Ulm", "Rome"].contains(&value["town"].as_str().unwrap()));
        assert!((1..=999).contains(&value["people"].as_u64().unwrap()));
    }
    assert!(text.starts_with('{'), "{text}");
}

#[test]
fn grammars_that_cannot_be_followed_are_refused_in_a_line() {
    let checkpoint = Checkpoint::of_bytes();
    let file = |name: &str, text: &str| {
        let path = checkpoint.write(name, text);
        path.to_str().unwrap().to_owned()
    };
    let thing = json!({ "type": "thing" }).to_string();
    for (args, problem) in [
        (
            vec!["--regex".to_owned(), "(".to_owned()],
            "--regex: regular expression: ",
        ),
        (
            vec!["--json-schema".to_owned(), file("a", "{")],
            "JSON schema: expected JSON",
        ),
        (
            vec!["--json-schema".to_owned(), file("b", &thing)],
            "--json-schema: JSON schema: ",
        ),
        (
            vec!["--json-schema".to_owned(), "nowhere.json".to_owned()],
            "--json-schema: nowhere.json",
        ),
        (
            vec!["--grammar".to_owned(), file("c", "begin: \"a\"")],
            "--grammar: grammar: ",
        ),
        (
            vec!["--grammar".to_owned(), file("d", &"a".repeat(300_000))],
            "--grammar: grammar: expected at most 131072 bytes, found 300000",
        ),
    ] {
        let prompt = ["--prompt", "a"].map(str::to_owned).into_iter();
        let args = prompt.chain(args).collect::<Vec<_>>();
        let output = checkpoint.run("generate", &args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let error = stderr.lines().last().unwrap();
        assert!(
            error.starts_with("error: ") && error.contains(problem),
            "{problem}: {error}"
        );
    }
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let checkpoint = Checkpoint::of_bytes();
    for others in [["--grammar", "a"], ["--lossless", "--json"]] {
        let args = ["--prompt", "a", "--regex", "a"];
        let output = checkpoint.run("generate", &[&args[..], &others].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("cannot be used with"), "{stderr}");
    }
}
