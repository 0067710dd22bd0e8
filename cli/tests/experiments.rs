//! The experiments as a program: what they print, draw and keep, and what they refuse.

mod common;

use std::fs;

use common::Checkpoint;
use serde_json::Value;

/// Options that every experiment takes, for a model so small.
const SMALL: [&str; 4] = ["--page-size", "8", "--dense-layers", "1"];

fn passkey<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "--lengths",
        "420,512",
        "--budgets",
        "1/8,32",
        "--depths",
        "2",
        "--trials",
        "2",
        "--policies",
        "dense,quest,streaming,h2o,tova",
        "--tail",
        "40",
        "--answer-tokens",
        "3",
    ];
    [&SMALL, args.as_slice(), more].concat()
}

#[track_caller]
fn assert_run_info(run: &Value, experiment: &str) {
    assert_eq!(run["experiment"], experiment);
    assert_eq!(run["model"]["sha256"].as_str().unwrap().len(), 64);
    assert!(!run["model"]["name"].as_str().unwrap().is_empty());
    assert_eq!(run["model"]["config"]["n_layers"], 4);
    assert_eq!(run["build"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(run["build"].get("commit").is_some());
    assert_eq!(
        (&run["device"], &run["dtype"]),
        (&"flex".into(), &"f32".into())
    );
    assert!(run["seed"].is_u64());
    assert_eq!(run["settings"]["page_size"], 8);
}

#[test]
fn passkey_prints_a_row_for_each_policy_length_budget_and_depth() {
    let checkpoint = Checkpoint::of_bytes();
    let result = checkpoint.run_json("passkey", &passkey(&["--seed", "5"]));
    let rows = result["rows"].as_array().unwrap();
    // Dense attention has one budget, the whole context; the four others have two.
    assert_eq!(rows.len(), (1 + 4 * 2) * 2 * 2);
    for row in rows {
        let length = row["length"].as_u64().unwrap();
        assert!(length == 420 || length == 512);
        let budget = row["budget"].as_u64().unwrap();
        let expected = match (
            row["policy"].as_str().unwrap(),
            row["asked_budget"].as_str(),
        ) {
            ("dense", None) => length,
            ("quest" | "streaming" | "h2o" | "tova", Some("1/8")) => length / 8 / 8 * 8,
            ("quest" | "streaming" | "h2o" | "tova", Some("32")) => 32,
            other => panic!("{other:?}"),
        };
        assert_eq!(budget, expected);
        assert!([0.5, 1.0].contains(&row["depth"].as_f64().unwrap()));
        assert_eq!(row["trials"], 2);
        assert!(row["correct"].as_u64().unwrap() <= 2);
    }
    assert_run_info(&result["run"], "passkey");
    assert_eq!(result["run"]["seed"], 5);
    assert_eq!(result["run"]["settings"]["depths"], 2);
}

#[test]
fn passkey_hides_as_many_numbers_as_asked_for() {
    let checkpoint = Checkpoint::of_bytes();
    let mut args = passkey(&["--keys", "3"]);
    let lengths = args.iter_mut().find(|arg| **arg == "420,512").unwrap();
    *lengths = "700";
    let result = checkpoint.run_json("passkey", &args);
    assert_eq!(result["run"]["settings"]["keys"], 3);
    assert_eq!(result["rows"].as_array().unwrap().len(), (1 + 4 * 2) * 2);
}

#[test]
fn passkey_prints_a_table_and_draws_a_map_for_each_policy_and_budget() {
    let checkpoint = Checkpoint::of_bytes();
    let plot = checkpoint.path().join("passkey.svg");
    let text = checkpoint.run_text("passkey", &passkey(&["--plot", plot.to_str().unwrap()]));
    assert_eq!(text.lines().count(), 1 + 9 * 2, "{text}");
    assert!(text.lines().next().unwrap().contains("accuracy"));
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg "));
    for title in [
        "dense",
        "quest, budget 1/8 of the context",
        "tova, budget 32 tokens",
    ] {
        assert!(svg.lines().any(|line| line.trim() == title), "{title}");
    }
}

#[test]
fn a_run_that_was_cut_goes_on_and_prints_the_same() {
    let checkpoint = Checkpoint::of_bytes();
    let (args, file) = checkpoint.assert_resumes("passkey", &passkey(&["--json"]));
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.lines().count(), 1 + 9 * 2 * 2 * 2);
    // Nothing is left to compute.
    let output = checkpoint.run("passkey", &args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("resumed: 72 rows are there"), "{stderr}");
}

#[test]
fn recall_prints_rows_by_budget_policy_and_layer() {
    let checkpoint = Checkpoint::of_bytes();
    let plot = checkpoint.path().join("recall.svg");
    let args = [
        "--length",
        "512",
        "--steps",
        "10",
        "--budgets",
        "1/8,32",
        "--policies",
        "quest,tova",
        "--plot",
        plot.to_str().unwrap(),
    ];
    let result = checkpoint.run_json("recall", &[&SMALL, args.as_slice()].concat());
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * (1 + 4));
    for row in rows {
        for share in ["recall", "mass", "read"] {
            let share = row[share].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{row}");
        }
        assert_eq!((&row["length"], &row["steps"]), (&512.into(), &10.into()));
        match row["layer"].as_u64() {
            None => assert_eq!(row["recall_by_step"].as_array().unwrap().len(), 10),
            Some(layer) => assert!(layer < 4 && row.get("recall_by_step").is_none()),
        }
    }
    assert_run_info(&result["run"], "recall");
    assert!(
        fs::read_to_string(plot)
            .unwrap()
            .contains("attention covered")
    );

    let text = checkpoint.write("text.txt", "Every word of this text is a word. ".repeat(20));
    let args = [
        "--text",
        text.to_str().unwrap(),
        "--length",
        "300",
        "--steps",
        "4",
    ];
    let result = checkpoint.run_json("recall", &[&SMALL, args.as_slice()].concat());
    assert_eq!(result["run"]["settings"]["text"], "text.txt");
    assert_eq!(result["rows"].as_array().unwrap().len(), 4 * 4 * 5);
}

#[test]
fn demo_prints_both_answers_the_share_read_and_the_times() {
    let checkpoint = Checkpoint::of_bytes();
    let args = ["--length", "900", "--budget", "1/8"];
    let demo = checkpoint.run_json("demo", &[&SMALL, args.as_slice()].concat());
    assert!(demo["answer_dense"].is_string() && demo["answer_quest"].is_string());
    let passkey = demo["passkey"].as_u64().unwrap();
    assert!((1..=50_000).contains(&passkey));
    assert_eq!(demo["tokens"], 890);
    let share = demo["share_read"].as_f64().unwrap();
    assert!(
        share > 0.25 && share < 1.0,
        "one layer of four is dense: {share}"
    );
    for time in ["ms_per_token_dense", "ms_per_token_quest", "prefill_s"] {
        assert!(demo[time].as_f64().unwrap() > 0.0, "{time}");
    }
    assert_run_info(&demo["run"], "demo");

    let text = checkpoint.run_text("demo", &[&SMALL, args.as_slice()].concat());
    for part in [
        "passkey",
        "dense",
        "Quest",
        "cache read",
        "layer 1 head 1",
        "▲",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // Without a length: what the model was made for.
    let demo = checkpoint.run_json("demo", &SMALL);
    assert_eq!(demo["tokens"], 1024 - 10);
}

#[track_caller]
fn assert_refused(checkpoint: &Checkpoint, subcommand: &str, args: &[&str], message: &str) {
    let error = checkpoint.run_refused(subcommand, args);
    assert!(error.contains(message), "{error}");
}

#[test]
fn what_cannot_be_served_is_refused() {
    let checkpoint = Checkpoint::of_bytes();
    for (subcommand, args, message) in [
        (
            "passkey",
            vec!["--budgets", "1/0"],
            "budget: expected a number of tokens",
        ),
        (
            "passkey",
            vec!["--policies", "dense,snapkv"],
            "policy: expected one of dense, quest, streaming, h2o, tova",
        ),
        (
            "passkey",
            vec!["--lengths", "64"],
            "length: expected at least",
        ),
        (
            "passkey",
            vec!["--lengths", "4096"],
            "at most 1024 tokens, found 4096",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--depths", "0"],
            "depths: expected at least 1",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--keys", "257"],
            "keys: expected at most 256, found 257",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--budgets", "4"],
            "budget",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--page-size", "12"],
            "page size",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--plot", "absent/f.svg"],
            "absent/f.svg: expected a",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--prefill-chunk", "0"],
            "prefill chunk",
        ),
        (
            "recall",
            vec!["--length", "512", "--steps", "512"],
            "steps: expected fewer",
        ),
        (
            "recall",
            vec!["--length", "512", "--dense-layers", "4"],
            "dense layers",
        ),
        ("recall", vec!["--text", "absent.txt"], "absent.txt"),
        ("demo", vec!["--length", "100"], "length: expected at least"),
        (
            "demo",
            vec!["--depth", "2"],
            "depth: expected a share from 0 to 1",
        ),
        (
            "demo",
            vec!["--budget", "some"],
            "budget: expected a number of tokens",
        ),
    ] {
        assert_refused(&checkpoint, subcommand, &args, message);
    }
    let short = checkpoint.write("short.txt", "a few words");
    let args = ["--text", short.to_str().unwrap(), "--length", "512"];
    assert_refused(
        &checkpoint,
        "recall",
        &args,
        "expected at least 512 tokens, found 12",
    );

    let notes = checkpoint.write("notes.txt", "not results");
    let args = passkey(&["--resume", notes.to_str().unwrap()]);
    assert_refused(
        &checkpoint,
        "passkey",
        &args,
        "expected what a run was made with",
    );
    assert_eq!(fs::read_to_string(&notes).unwrap(), "not results");

    let file = checkpoint.path().join("rows.jsonl");
    let resume = ["--resume", file.to_str().unwrap(), "--policies", "dense"];
    let args = passkey(&[]);
    let first = [&args[..8], &["--trials", "1"], &resume].concat();
    assert!(checkpoint.run("passkey", &first).status.success());
    let second = [&args[..8], &["--trials", "2"], &resume].concat();
    assert_refused(
        &checkpoint,
        "passkey",
        &second,
        "`settings.trials` is 1 there and 2 here",
    );

    fs::remove_file(checkpoint.path().join("tokenizer.json")).unwrap();
    assert_refused(
        &checkpoint,
        "demo",
        &[],
        "expected tokenizer.json next to the weights, found none",
    );
}

#[test]
fn what_makes_no_sense_is_refused_before_the_weights_are_read() {
    let checkpoint = Checkpoint::of_bytes();
    fs::remove_file(checkpoint.path().join("model.safetensors")).unwrap();
    let ids = checkpoint.write_ids(&[3; 100]);
    let unknown = checkpoint.write("unknown.json", "[3, 4, 70000]");
    let (ids, unknown) = (ids.to_str().unwrap(), unknown.to_str().unwrap());
    let budget = "token budget: expected at least one page of 8 tokens, found 4";
    for (subcommand, args, message) in [
        (
            "recall",
            vec!["--text", "absent.txt"],
            "absent.txt: expected a readable file",
        ),
        (
            "sparsity",
            vec!["--text", "absent.txt"],
            "absent.txt: expected a readable file",
        ),
        (
            "perplexity",
            vec!["--text", "absent.txt", "--policies", "quest"],
            "absent.txt: expected a readable file",
        ),
        ("sparsity", vec!["--ids", unknown], "found 70000 at index 2"),
        (
            "passkey",
            vec!["--depths", "0"],
            "depths: expected at least 1, found 0",
        ),
        (
            "passkey",
            vec!["--trials", "0"],
            "trials: expected at least 1, found 0",
        ),
        (
            "passkey",
            vec!["--keys", "0"],
            "keys: expected at least 1, found 0",
        ),
        (
            "passkey",
            vec!["--lengths", "512", "--budgets", "4"],
            budget,
        ),
        (
            "passkey",
            vec!["--prefill-chunk", "0"],
            "prefill chunk: expected at least 1 token",
        ),
        ("recall", vec!["--length", "512", "--budgets", "4"], budget),
        (
            "recall",
            vec!["--length", "512", "--steps", "0"],
            "steps: expected at least 1, found 0",
        ),
        ("demo", vec!["--length", "900", "--budget", "4"], budget),
        (
            "demo",
            vec!["--depth", "2"],
            "depth: expected a share from 0 to 1, found 2",
        ),
        (
            "demo",
            vec!["--length", "2000"],
            "length: the model is made for at most 1024",
        ),
        (
            "sparsity",
            vec!["--ids", ids, "--tolerance", "nan"],
            "tolerance: expected a finite number of at least 0, found NaN",
        ),
        ("sparsity", vec!["--ids", ids, "--budgets", "4"], budget),
        (
            "perplexity",
            vec!["--ids", ids, "--policies", "dense", "--window", "0"],
            "window: expected at least 1, found 0",
        ),
        (
            "perplexity",
            vec!["--ids", ids, "--policies", "quest", "--budgets", "4"],
            budget,
        ),
    ] {
        assert_refused(&checkpoint, subcommand, &args, message);
    }
}
