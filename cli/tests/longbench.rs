//! LongBench as a program, on files that the tests write.

mod common;

use std::{fs, path::Path};

use common::Checkpoint;
use serde_json::{Value, json};

fn record(task: &str, id: usize) -> Value {
    json!({
        "input": "Who wrote it?", "context": "Somebody wrote it. ".repeat(id + 1),
        "answers": ["Ada", "Ada Lovelace"], "length": 3, "dataset": task, "language": "en",
        "all_classes": null, "_id": id.to_string(),
    })
}

/// Writes a task's file of that many records beside the model.
fn write(checkpoint: &Checkpoint, task: &str, records: usize) {
    let lines = (0..records).map(|id| format!("{}\n", record(task, id)));
    checkpoint.write(&format!("{task}.jsonl"), lines.collect::<String>());
}

fn data(checkpoint: &Checkpoint) -> &str {
    checkpoint.path().to_str().unwrap()
}

fn args<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "--data",
        data,
        "--page-size",
        "8",
        "--dense-layers",
        "1",
        "--budgets",
        "1/8,32",
        "--policies",
        "dense,quest,streaming",
    ];
    [&args, more].concat()
}

#[test]
fn a_row_is_printed_for_each_task_policy_and_budget() {
    let checkpoint = Checkpoint::of_bytes();
    write(&checkpoint, "hotpotqa", 2);
    write(&checkpoint, "triviaqa", 1);
    let more = ["--tasks", "triviaqa,hotpotqa,triviaqa"];
    let result = checkpoint.run_json("longbench", &args(data(&checkpoint), &more));
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * (1 + 2 * 2));
    for (i, row) in rows.iter().enumerate() {
        let (task, records) = match i < 5 {
            true => ("triviaqa", 1),
            false => ("hotpotqa", 2),
        };
        assert_eq!(
            (&row["task"], &row["records"]),
            (&json!(task), &json!(records))
        );
        assert_eq!((&row["metric"], &row["cut"]), (&json!("f1"), &json!(0)));
        let score = row["score"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&score));
        let (policy, asked) = [
            ("dense", Value::Null),
            ("quest", json!("1/8")),
            ("quest", json!("32")),
            ("streaming", json!("1/8")),
            ("streaming", json!("32")),
        ][i % 5]
            .clone();
        assert_eq!(
            (&row["policy"], &row["asked_budget"]),
            (&json!(policy), &asked)
        );
        let budget = row["budget"].as_u64().unwrap();
        match asked.as_str() {
            Some("32") => assert_eq!(budget, 32),
            // The prompt has between one hundred and five hundred bytes.
            Some(_) => assert!((8..64).contains(&budget), "{budget}"),
            None => assert!((100..500).contains(&budget), "{budget}"),
        }
    }
    let run = &result["run"];
    assert_eq!(run["experiment"], "longbench");
    assert_eq!(run["settings"]["context"], 1024, "the model's");
    assert_eq!(run["settings"]["tasks"][1]["task"], "hotpotqa");
    assert_eq!(run["settings"]["tasks"][1]["records"], 2);
    let sha256 = run["settings"]["tasks"][1]["sha256"].as_str().unwrap();
    assert_eq!(sha256.len(), 64);
}

#[test]
fn the_table_and_the_plot_show_every_task_and_policy() {
    let checkpoint = Checkpoint::of_bytes();
    write(&checkpoint, "hotpotqa", 1);
    write(&checkpoint, "gov_report", 1);
    let plot = checkpoint.path().join("longbench.svg");
    let more = [
        "--tasks",
        "gov_report,hotpotqa",
        "--plot",
        plot.to_str().unwrap(),
    ];
    let text = checkpoint.run_text("longbench", &args(data(&checkpoint), &more));
    let lines = text.lines().map(|line| line.split_whitespace().collect());
    let lines = lines.collect::<Vec<Vec<_>>>();
    assert_eq!(
        lines[0],
        ["policy", "budget", "gov_report", "hotpotqa", "mean"]
    );
    assert_eq!(lines.len(), 1 + 5, "{text}");
    assert_eq!(lines[2][..2], ["quest", "1/8"]);
    let svg = fs::read_to_string(plot).unwrap();
    for text in ["gov_report", "hotpotqa", "ROUGE-L, %", "streaming"] {
        assert!(svg.lines().any(|line| line.trim() == text), "{text}");
    }
}

#[test]
fn a_run_that_was_cut_goes_on_and_prints_the_same() {
    let checkpoint = Checkpoint::of_bytes();
    write(&checkpoint, "hotpotqa", 3);
    let more = ["--tasks", "hotpotqa", "--json"];
    let args = args(data(&checkpoint), &more);
    let (args, file) = checkpoint.assert_resumes("longbench", &args);
    let rows = fs::read_to_string(file).unwrap();
    assert_eq!(rows.lines().count(), 1 + 3 * 5);

    // Other records are another run.
    write(&checkpoint, "hotpotqa", 2);
    let error = checkpoint.run_refused("longbench", &args);
    assert!(error.contains("settings.tasks"), "{error}");
}

#[test]
fn only_the_first_records_are_answered_where_a_limit_is_given() {
    let checkpoint = Checkpoint::of_bytes();
    write(&checkpoint, "hotpotqa", 3);
    let more = ["--tasks", "hotpotqa", "--limit", "1"];
    let result = checkpoint.run_json("longbench", &args(data(&checkpoint), &more));
    assert_eq!(result["rows"][0]["records"], 1);
}

#[test]
fn bad_data_is_refused_with_file_and_line() {
    let checkpoint = Checkpoint::of_bytes();
    let at = |name: &str| checkpoint.path().join(name).display().to_string();
    let absent = at("absent");
    let error = checkpoint.run_refused("longbench", &args(&absent, &[]));
    let expected = format!("{absent}: expected a folder with LongBench's files, found nothing");
    assert!(error.contains(&expected), "{error}");

    let hotpotqa = args(data(&checkpoint), &["--tasks", "hotpotqa"]);
    let error = checkpoint.run_refused("longbench", &hotpotqa);
    let file = at("hotpotqa.jsonl");
    let expected = format!("{file}: expected a readable file of LongBench's task hotpotqa");
    assert!(error.contains(&expected), "{error}");

    let good = record("hotpotqa", 1).to_string();
    checkpoint.write("hotpotqa.jsonl", format!("{good}\n{}\n", &good[..40]));
    let error = checkpoint.run_refused("longbench", &hotpotqa);
    assert!(
        error.contains(&format!("{file}:2: expected a JSON object")),
        "{error}"
    );
    assert!(error.contains("found EOF"), "{error}");

    checkpoint.write("hotpotqa.jsonl", "");
    let error = checkpoint.run_refused("longbench", &hotpotqa);
    let expected = format!("{file}: expected at least one record, found none");
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn bad_options_are_refused() {
    let checkpoint = Checkpoint::of_bytes();
    write(&checkpoint, "hotpotqa", 1);
    let data = data(&checkpoint);
    for (more, expected) in [
        (
            &["--tasks", "hotpotqa,samsum"][..],
            &[
                "'samsum'",
                "expected one of qasper, hotpotqa",
                "found samsum",
            ][..],
        ),
        (
            &["--tasks", "hotpotqa", "--context", "90"],
            &[
                "record 0 of hotpotqa: context: expected at least",
                "found 90",
            ],
        ),
        (
            &["--tasks", "hotpotqa", "--context", "2000"],
            &["context: the model is made for at most 1024 tokens, found 2000"],
        ),
        (&["--tasks", "hotpotqa", "--limit", "0"], &["--limit", "0"]),
    ] {
        let error = checkpoint.run_refused("longbench", &args(data, more));
        for expected in expected {
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
    for (option, value, expected) in [
        ("--policies", "snapkv", "expected one of dense, quest"),
        ("--budgets", "7", "found 7"),
        ("--budgets", "none", "found `none`"),
    ] {
        let args = ["--data", data, "--tasks", "hotpotqa", option, value];
        let error = checkpoint.run_refused("longbench", &args);
        assert!(error.contains(expected), "{error}");
    }
    assert!(!Path::new(data).join("rows.jsonl").exists());

    fs::remove_file(Path::new(data).join("model.safetensors")).unwrap();
    for (option, value, expected) in [
        ("--budgets", "7", "found 7"),
        ("--context", "2000", "context: "),
    ] {
        let args = ["--data", data, "--tasks", "hotpotqa", option, value];
        let error = checkpoint.run_refused("longbench", &args);
        assert!(error.contains(expected), "before the weights: {error}");
    }
}
