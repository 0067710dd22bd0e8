//! Perplexity against position and the sparsity of layers, as a program.

mod common;

use std::fs;

use common::{Checkpoint, ids};
use quest_burn_tests::tokenizer::BYTE_VOCABULARY;
use serde_json::{Value, json};

const TOKENS: usize = 200;

/// A model, and the path of a file with ids.
fn checkpoint() -> (Checkpoint, String) {
    let checkpoint = Checkpoint::of_bytes();
    let ids = checkpoint.write_ids(&ids(TOKENS, BYTE_VOCABULARY));
    let ids = ids.to_str().unwrap().to_owned();
    (checkpoint, ids)
}

fn perplexity<'a>(ids: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "--ids",
        ids,
        "--page-size",
        "8",
        "--dense-layers",
        "1",
        "--policies",
        "dense,quest,h2o",
        "--budgets",
        "32,1/1",
        "--prefill",
        "120",
        "--window",
        "30",
    ];
    [&args, more].concat()
}

fn sparsity<'a>(ids: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["--ids", ids, "--page-size", "8", "--prefill", "150"];
    [&args, more].concat()
}

/// An interrupted run resumes, but not with another text.
#[track_caller]
fn assert_resumes(subcommand: &str, args: &[&str]) {
    let (checkpoint, ids) = checkpoint();
    let args = [&["--ids", &ids], args, &["--json"]].concat();
    let (args, _) = checkpoint.assert_resumes(subcommand, &args);
    checkpoint.write_ids(&common::ids(TOKENS - 1, BYTE_VOCABULARY));
    let error = checkpoint.run_refused(subcommand, &args);
    assert!(error.contains("settings."), "another text: {error}");
}

#[test]
fn perplexity_of_several_policies_is_a_row_for_each_with_its_curve() {
    let (checkpoint, ids) = checkpoint();
    let result = checkpoint.run_json("perplexity", &perplexity(&ids, &[]));
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    let dense = &rows[0];
    assert_eq!(
        (&dense["policy"], &dense["asked_budget"]),
        (&json!("dense"), &Value::Null)
    );
    for row in rows {
        assert_eq!(row["tokens"], TOKENS - 120);
        let points = row["points"].as_array().unwrap();
        let positions = points.iter().map(|point| point["position"].clone());
        assert_eq!(positions.collect::<Vec<_>>(), [150, 180, 200]);
        assert_eq!(points[2]["running"], row["perplexity"]);
        assert!(points[1]["window"].as_f64().unwrap() > 1.0);
        match row["asked_budget"].as_str() {
            Some("32") => assert_ne!(row["points"], dense["points"]),
            _ => assert_eq!(row["points"], dense["points"]),
        }
    }
    assert_eq!(result["run"]["settings"]["length"], TOKENS);
    assert_eq!(result["run"]["settings"]["text"], "ids.json");

    let args = ["--ids", &ids, "--prefill", "120", "--policy", "dense"];
    let single = checkpoint.run_json("perplexity", &[&args[..], &["--page-size", "8"]].concat());
    let single = single["mean_nll"].as_f64().unwrap();
    let mean_nll = dense["mean_nll"].as_f64().unwrap();
    assert!((mean_nll - single).abs() < 1e-5 * single);
}

#[test]
fn perplexity_of_several_policies_is_a_table_and_a_plot() {
    let (checkpoint, ids) = checkpoint();
    let plot = checkpoint.path().join("perplexity.svg");
    let args = perplexity(&ids, &["--plot", plot.to_str().unwrap()]);
    let text = checkpoint.run_text("perplexity", &args);
    assert_eq!(text.lines().count(), 1 + 5, "{text}");
    assert!(text.lines().next().unwrap().ends_with("above dense"));
    let svg = fs::read_to_string(plot).unwrap();
    for text in [
        "dense",
        "quest",
        "budget 32 tokens",
        "budget 1/1 of the context",
    ] {
        assert!(svg.lines().any(|line| line.trim() == text), "{text}");
    }
}

#[test]
fn perplexity_reads_the_beginning_of_a_text_in_both_forms() {
    let (checkpoint, ids) = checkpoint();
    let more = ["--length", "140"];
    let result = checkpoint.run_json("perplexity", &perplexity(&ids, &more));
    assert_eq!(result["rows"][0]["tokens"], 20);
    let single = checkpoint.run_json("perplexity", &["--ids", &ids, "--length", "50"]);
    assert_eq!(single["tokens"], 49);

    let text = checkpoint.write("text.txt", "a text ".repeat(20));
    let args = ["--text", text.to_str().unwrap(), "--policies", "dense"];
    let result = checkpoint.run_json("perplexity", &args);
    assert_eq!(result["rows"][0]["tokens"], 7 * 20, "all but its beginning");
}

#[test]
fn perplexity_that_was_cut_goes_on_and_prints_the_same() {
    let args = perplexity("", &[]);
    assert_resumes("perplexity", &args[2..]);
}

#[test]
fn options_of_one_and_of_several_policies_are_not_mixed() {
    let (checkpoint, ids) = checkpoint();
    let refused = |args: &[&str]| {
        let args = [&["--ids", &ids], args].concat();
        checkpoint.run_refused("perplexity", &args)
    };
    let error = refused(&["--policies", "dense", "--policy", "dense"]);
    assert!(error.contains("cannot be used with"), "{error}");
    let error = refused(&["--policies", "dense", "--token-budget", "64"]);
    assert!(error.contains("cannot be used with"), "{error}");
    for sparse in [["--policy", "h2o"], ["--token-budget", "64"]] {
        let error = refused(&sparse);
        let expected = format!("{}: expected --prefill N with it", sparse.join(" "));
        assert!(error.contains(&expected), "{error}");
    }
    let error = refused(&["--budgets", "64"]);
    assert!(error.contains("--policies"), "{error}");
    let error = refused(&["--plot", "a.svg"]);
    assert!(error.contains("--policies"), "{error}");
    let error = refused(&["--policies", "dense", "--length", "201"]);
    assert!(
        error.contains("expected at least 201 tokens, found 200"),
        "{error}"
    );
    let error = refused(&["--policies", "dense", "--prefill", "200"]);
    assert!(error.contains("prefill: expected from 1 to 199"), "{error}");
    let error = refused(&["--policies", "dense", "--window", "0"]);
    assert!(
        error.contains("window: expected at least 1, found 0"),
        "{error}"
    );
    let error = refused(&["--policies", "dense", "--context", "100"]);
    assert!(error.contains("at most 100 tokens, found 200"), "{error}");
    let error = refused(&["--policies", "dense", "--plot", "absent/a.svg"]);
    assert!(error.contains("absent/a.svg: expected a file"), "{error}");
}

#[test]
fn sparsity_prints_the_smallest_budget_of_each_layer_and_policy() {
    let (checkpoint, ids) = checkpoint();
    let result = checkpoint.run_json("sparsity", &sparsity(&ids, &["--tolerance", "0.5"]));
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4 * 2);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["layer"], i / 2);
        assert_eq!(row["policy"], ["quest", "oracle"][i % 2]);
        let share = row["share"].as_f64().unwrap();
        match row["budget"].as_u64() {
            Some(budget) => assert_eq!(share, budget as f64 / TOKENS as f64),
            None => assert_eq!(share, 1.0),
        }
        let (perplexity, dense) = (&row["perplexity"], &row["dense_perplexity"]);
        assert!(perplexity.as_f64().unwrap() <= dense.as_f64().unwrap() + 0.5);
    }
    let settings = &result["run"]["settings"];
    assert_eq!(settings["budgets"], json!([8, 16, 32, 64, 128]));
    assert_eq!(
        settings["quest"]["dense_layers"], 0,
        "each layer has its turn"
    );
    assert_eq!(
        (&settings["length"], &settings["prefill"]),
        (&json!(200), &json!(150))
    );

    let shares = ["--tolerance", "1e9", "--budgets", "1/50,1/25,1/4,1K"];
    let shares = checkpoint.run_json("sparsity", &sparsity(&ids, &shares));
    assert_eq!(shares["run"]["settings"]["budgets"], json!([8, 48, 1024]));

    let any = checkpoint.run_json("sparsity", &sparsity(&ids, &["--tolerance", "1e9"]));
    let rows = any["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["budget"] == 8), "{rows:?}");
}

#[test]
fn sparsity_is_a_table_and_a_plot() {
    let (checkpoint, ids) = checkpoint();
    let plot = checkpoint.path().join("sparsity.svg");
    let args = sparsity(&ids, &["--plot", plot.to_str().unwrap()]);
    let text = checkpoint.run_text("sparsity", &args);
    assert_eq!(text.lines().count(), 1 + 4 * 2, "{text}");
    let svg = fs::read_to_string(plot).unwrap();
    for text in ["quest", "oracle", "% of the context"] {
        assert!(svg.lines().any(|line| line.trim() == text), "{text}");
    }
}

#[test]
fn sparsity_that_was_cut_goes_on_and_prints_the_same() {
    let args = sparsity("", &[]);
    assert_resumes("sparsity", &args[2..]);
}

#[test]
fn sparsity_refuses_what_makes_no_sense() {
    let (checkpoint, ids) = checkpoint();
    for (more, expected) in [
        (
            ["--policies", "quest,dense"],
            "policies: expected policies that leave something out, found dense",
        ),
        (
            ["--budgets", "64,32"],
            "budgets: expected an ascending list, found 64 before 32",
        ),
        (["--budgets", "64,x"], "budget: expected a number of tokens"),
        (["--prefill", "200"], "prefill: expected from 1 to 199"),
        (
            ["--dense-layers", "1"],
            "unexpected argument '--dense-layers'",
        ),
        (
            ["--length", "201"],
            "expected at least 201 tokens, found 200",
        ),
    ] {
        let args = [&["--ids", &ids][..], &more, &["--page-size", "8"]].concat();
        let error = checkpoint.run_refused("sparsity", &args);
        assert!(error.contains(expected), "{error}");
    }
    let args = ["--ids", &ids, "--tolerance=-1"];
    let error = checkpoint.run_refused("sparsity", &args);
    assert!(
        error.contains("tolerance: expected a finite number"),
        "{error}"
    );
}
