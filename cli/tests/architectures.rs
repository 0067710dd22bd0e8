//! The program on a tiny model of each architecture.

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use quest_burn_tests::fixtures::{self, Fixture};
use serde_json::Value;
use tempfile::TempDir;

fn run(subcommand: &str, fixture: &Fixture, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quest"))
        .arg(subcommand)
        .arg("--model")
        .arg(&fixture.dir)
        .args(["--device", "flex"])
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fixture(name: &str) -> Fixture {
    let mut all = fixtures::architectures().into_iter();
    all.find(|fixture| fixture.name == name).unwrap()
}

/// The ids of a fixture's prompt in a file.
fn prompt(fixture: &Fixture) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ids.json");
    let golden = &fixture.golden;
    let ids = &golden.ids[..golden.greedy_prompt_len];
    std::fs::write(&path, serde_json::to_string(ids).unwrap()).unwrap();
    (dir, path)
}

#[test]
fn every_architecture_goes_on_from_a_prompt_as_transformers_does() {
    for fixture in fixtures::architectures() {
        let (_dir, ids) = prompt(&fixture);
        let n = fixture.golden.greedy.len().to_string();
        let args = [
            "--ids",
            ids.to_str().unwrap(),
            "--max-new-tokens",
            &n,
            "--json",
        ];
        let policy = ["--policy", "dense", "--temperature", "0", "--ignore-eos"];
        let found = json(&run("generate", &fixture, &[&args[..], &policy].concat()));
        let found = found["ids"].as_array().unwrap().iter();
        let found = found
            .map(|id| id.as_u64().unwrap() as u32)
            .collect::<Vec<_>>();
        assert_eq!(found, fixture.golden.greedy, "{}", fixture.name);
    }
}

#[test]
fn windows_and_experts_are_told() {
    let info = |name| json(&run("info", &fixture(name), &["--json"]));
    let gemma = info("gemma3");
    assert_eq!(gemma["architecture"], "Gemma3");
    assert_eq!(gemma["sliding_window"]["tokens"], 24);
    assert_eq!(gemma["sliding_window"]["layers"], 2);
    assert_eq!(gemma["context"], 256);
    assert!(gemma["experts"].is_null());
    let qwen = info("qwen3-moe");
    assert_eq!(qwen["experts"]["count"], 6);
    assert_eq!(qwen["experts"]["chosen"], 2);
    assert_eq!(qwen["experts"]["layers"], 2);
    assert!(qwen["sliding_window"].is_null());
}

#[test]
fn experts_are_not_rounded_into_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quest"))
        .args(["convert", "--weights", "int4", "--model"])
        .arg(fixture("qwen3-moe").dir)
        .arg(dir.path().join("new"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("unsupported weights `int4` of experts"),
        "{stderr}"
    );
}
