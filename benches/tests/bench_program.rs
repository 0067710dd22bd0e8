//! The benchmark program on the CPU: what it prints, and what it refuses.

mod common;

use std::{collections::BTreeSet, process::Command};

use common::{assert_refused, assert_times_are_ordered, lines, run, run_quickly};
use serde_json::Value;

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_quest-bench"));
    program.env("BURN_DEVICE", "flex");
    program
}

const TINY: [&str; 10] = [
    "attention",
    "--heads",
    "4:2",
    "--head-dim",
    "8",
    "--contexts",
    "128",
    "--page-sizes",
    "8",
    "--budgets",
];

#[test]
fn every_operation_of_the_attention_is_a_line() {
    let lines = lines(&[&TINY[..], &["16,32,256"]].concat());
    for line in &lines {
        for key in ["implementation", "version", "date", "device", "backend"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
    }
    let of_kind = |kind: &str| {
        let lines = lines.iter().filter(|line| line["kind"] == kind);
        lines.collect::<Vec<_>>()
    };
    let bandwidth = of_kind("bandwidth");
    let operations = bandwidth.iter().map(|line| &line["operation"]);
    assert!(operations.eq(["copy", "read"]));

    let attention = of_kind("attention");
    let found = attention.iter().map(|line| {
        let budget = line["budget"].as_u64();
        (line["operation"].as_str().unwrap().to_owned(), budget)
    });
    let mut expected = BTreeSet::new();
    for operation in ["append", "page_scores", "dense_attention"] {
        expected.insert((operation.to_owned(), None));
    }
    for operation in [
        "top_pages",
        "paged_attention",
        "three_operations",
        "top_k_attention",
    ] {
        expected.insert((operation.to_owned(), Some(16)));
        expected.insert((operation.to_owned(), Some(32)));
    }
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    for line in attention {
        assert_times_are_ordered(line);
        assert_eq!(line["launch"], "plain", "the CPU has no graphs");
        assert_eq!(line["dtype"], "f32");
        assert_eq!(
            (&line["n_heads"], &line["n_kv_heads"]),
            (&4.into(), &2.into())
        );
        assert!(line["max_error"].as_f64().unwrap() < 1e-4, "{line}");
        let gb = line["bytes"].as_f64().unwrap() / line["median_us"].as_f64().unwrap() / 1e3;
        assert!((line["gb_per_s"].as_f64().unwrap() / gb - 1.0).abs() < 1e-9);
        assert!(line["copy_share"].as_f64().unwrap() > 0.0);
    }
    let skipped = of_kind("skipped");
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0]["budget"], 256);
    assert_eq!(skipped[0]["reason"], "the budget covers the context");
}

#[test]
fn only_some_operations_and_a_batch_in_half_precision() {
    let lines = lines(
        &[
            &TINY[..],
            &[
                "16",
                "--only",
                "top_k_attention,dense_attention",
                "--batch",
                "1,3",
            ],
            &["--dtype", "f16"],
        ]
        .concat(),
    );
    let attention = lines.iter().filter(|line| line["kind"] == "attention");
    let found = attention
        .map(|line| (line["operation"].as_str().unwrap(), line["batch"].as_u64()))
        .collect::<Vec<_>>();
    assert_eq!(
        found,
        [
            ("dense_attention", Some(1)),
            ("top_k_attention", Some(1)),
            ("dense_attention", Some(3)),
            ("top_k_attention", Some(3)),
        ]
    );
}

#[test]
fn what_does_not_fit_is_skipped_with_its_reason() {
    let arguments = [&TINY[..], &["16"], &["--contexts", "1M"]].concat();
    let arguments = arguments.iter().filter(|&&a| a != "128").copied();
    let mut arguments = arguments.collect::<Vec<_>>();
    // `--contexts` stands there once.
    let first = arguments.iter().position(|&a| a == "--contexts").unwrap();
    arguments.remove(first);
    let output = run(&[
        &arguments[..],
        &["--memory-limit", "16MB", "--json", "--rounds", "1"],
    ]
    .concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "skipped");
    assert_eq!(last["context"], 1 << 20);
    let reason = last["reason"].as_str().unwrap();
    assert!(
        reason.contains("bytes of memory, found 16777216"),
        "{reason}"
    );
}

#[test]
fn nothing_is_begun_when_the_time_is_over() {
    let output = run(&[
        &TINY[..],
        &["16", "--minutes", "0", "--json", "--rounds", "1"],
    ]
    .concat());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["reason"], "0 minutes are over");
}

#[test]
fn recorded_launches_are_left_out_on_a_device_that_has_none() {
    let launches = ["16", "--launch", "graph,plain"];
    let output = run_quickly(&[&TINY[..], &launches].concat(), "0");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("launch: plain (flex cannot record launches)"),
        "{stderr}"
    );
}

#[test]
fn a_device_that_is_unknown_or_not_compiled_in_is_refused() {
    for name in ["nope", "tch"] {
        let output = Command::new(env!("CARGO_BIN_EXE_quest-bench"))
            .arg("attention")
            .env("BURN_DEVICE", name)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.starts_with("error: BURN_DEVICE: expected a backend that is compiled in (")
                && stderr.ends_with(&format!("), found {name}\n"))
                && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}

#[test]
fn bad_input_is_refused() {
    for (arguments, expected) in [
        (
            &["attention", "--heads", "32:5"][..],
            "multiple of the KV heads, found 32:5",
        ),
        (&["attention", "--contexts", "32X"], "found `32X`"),
        (&["attention", "--only", "softmax"], "softmax"),
        (&["attention", "--preset", "huge"], "huge"),
        (&["attention", "--dtype", "f8"], "found f8"),
        (&["attention", "--memory-limit", "0"], "found `0`"),
        (&["attention", "--rounds", "0"], "rounds"),
        (
            &["attention", "--batch", "0"],
            "--batch: expected numbers of at least 1, found 0",
        ),
        (
            &["attention", "--page-sizes", "12"],
            "page size: expected a power of two",
        ),
        (
            &["attention", "--budgets", "7"],
            "token budget: expected at least one page",
        ),
        (
            &["attention", "--minutes=-1"],
            "--minutes: expected a number of minutes, found -1",
        ),
        (
            &["attention", "--launch", "graph"],
            "--launch: expected plain, as flex cannot record launches, found graph",
        ),
    ] {
        assert_refused(arguments, expected);
    }
}
