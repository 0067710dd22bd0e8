//! `quest calibrate`, and what takes what it writes.

mod common;

use std::{fs, path::Path};

use common::{Checkpoint, ids};
use quest_burn_tests::tokenizer::BYTE_VOCABULARY;
use serde_json::Value;

const FILE: &str = "quest-sparsity.safetensors";

/// A model, the path of a file with ids, and what `quest calibrate` says of them.
fn calibrated(more: &[&str]) -> (Checkpoint, String, Value) {
    let checkpoint = Checkpoint::of_bytes();
    let file = checkpoint.write_ids(&ids(300, BYTE_VOCABULARY));
    let file = file.to_str().unwrap().to_owned();
    let args = [&["--ids", &file, "--window", "75"], more].concat();
    let result = checkpoint.run_json("calibrate", &args);
    (checkpoint, file, result)
}

fn number(value: &Value, field: &str) -> f64 {
    value[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field} in {value}"))
}

#[test]
fn thresholds_are_written_beside_the_checkpoint() {
    let (checkpoint, _, result) = calibrated(&["--sparsity", "0.4"]);
    let file = checkpoint.path().join(FILE);
    assert_eq!(Path::new(result["file"].as_str().unwrap()), file);
    assert_eq!(
        number(&result, "bytes"),
        fs::metadata(file).unwrap().len() as f64
    );
    assert_eq!(number(&result, "sparsity"), 0.4);
    assert_eq!(number(&result, "tokens"), 225.0);
    assert_eq!(number(&result, "held_out_tokens"), 75.0);
    assert!((number(&result, "skipped") - 0.4).abs() < 0.005, "{result}");
    assert!(
        (number(&result, "held_out_skipped") - 0.4).abs() < 0.05,
        "{result}"
    );
    assert!(result["low_rank_error"].is_null());
}

#[test]
fn factors_are_written_on_request() {
    let (checkpoint, ids, result) = calibrated(&["--rank", "8"]);
    assert_eq!(
        (number(&result, "rank"), number(&result, "sparsity")),
        (8.0, 0.5)
    );
    assert!(
        (0.01..1.0).contains(&number(&result, "low_rank_error")),
        "{result}"
    );
    let text = checkpoint.run_text("calibrate", &["--ids", &ids, "--rank", "8"]);
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    assert_eq!(lines, ["file", "skipped", "factors"], "{text}");
}

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

#[test]
fn answers_and_likelihoods_skip_channels() {
    let (checkpoint, ids, _) = calibrated(&["--sparsity", "0.6"]);
    let file = checkpoint.path().join(FILE);
    let file = file.to_str().unwrap();
    let score = ["--ids", &ids, "--prefill", "200", "--policy", "dense"];
    let generate = ["--ids", &ids, "--max-new-tokens", "8", "--ignore-eos"];

    let dense = checkpoint.run_json("perplexity", &score);
    assert!(dense["activation_sparsity"].is_null());
    let sparse = checkpoint.run_json(
        "perplexity",
        &with(&score, &["--activation-sparsity", file]),
    );
    assert_eq!(number(&sparse, "activation_sparsity"), 0.6);
    assert_ne!(sparse["nll"], dense["nll"]);
    // The first scored token follows the prompt, which reads all channels.
    let first = |result: &Value| result["nll"][0].as_f64().unwrap();
    assert!((first(&sparse) - first(&dense)).abs() < 1e-4);

    let beside = checkpoint.run_json("generate", &with(&generate, &["--activation-sparsity"]));
    let named = checkpoint.run_json(
        "generate",
        &with(&generate, &["--activation-sparsity", file]),
    );
    assert_eq!(number(&beside, "activation_sparsity"), 0.6);
    assert_eq!(beside["ids"], named["ids"]);
    let int8 = with(
        &generate,
        &["--activation-sparsity", file, "--weights", "int8"],
    );
    assert_eq!(checkpoint.run_json("generate", &int8)["weights"], "int8");
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let checkpoint = Checkpoint::of_bytes();
    let ids = checkpoint.write_ids(&ids(100, BYTE_VOCABULARY));
    let ids = ids.to_str().unwrap();
    for (args, expected) in [
        (
            ["--sparsity", "1"],
            "sparsity: expected a share of the channels from 0 to below 1, found 1",
        ),
        (["--sparsity", "-0.5"], "found -0.5"),
        (
            ["--rank", "1000"],
            "rank: expected from 0 to 32, half of the fewest channels",
        ),
        (
            ["--length", "20"],
            "text: expected at least 64 tokens to calibrate on, found 20",
        ),
        (["--output", "/nowhere/file"], "/nowhere/file"),
    ] {
        let args = [&["--ids", ids], &args[..]].concat();
        let error = checkpoint.run_refused("calibrate", &args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    assert!(!checkpoint.path().join(FILE).exists());
}

#[test]
fn what_cannot_skip_channels_is_refused() {
    let (checkpoint, ids, _) = calibrated(&[]);
    let file = checkpoint.path().join(FILE);
    let file = file.to_str().unwrap();
    let cases: [(&str, &[&str], &str); 4] = [
        (
            "perplexity",
            &[],
            "--activation-sparsity: expected --prefill N with it, found none",
        ),
        (
            "perplexity",
            &["--policies", "dense"],
            "expected one policy, found --policies",
        ),
        (
            "generate",
            &["--lossless"],
            "the argument '--activation-sparsity [<FILE>]' cannot be used with '--lossless'",
        ),
        ("generate", &["--weights", "int4"], "found int4"),
    ];
    for (subcommand, more, expected) in cases {
        let args = [&["--ids", &ids, "--activation-sparsity", file], more].concat();
        let error = checkpoint.run_refused(subcommand, &args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    let none = ["--ids", &ids, "--activation-sparsity", "none.safetensors"];
    let error = checkpoint.run_refused("generate", &none);
    assert!(
        error.contains("none.safetensors: expected a file that can be read"),
        "{error}"
    );
    let weights = checkpoint.path().join("model.safetensors");
    let other = [
        "--ids",
        &ids,
        "--activation-sparsity",
        weights.to_str().unwrap(),
    ];
    let error = checkpoint.run_refused("generate", &other);
    assert!(
        error.contains("format: expected quest-activation-sparsity-1"),
        "{error}"
    );
}
