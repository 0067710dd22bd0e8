//! Memory that is not there is known beforehand.

#![cfg(target_os = "linux")]

mod common;

use std::process::{Command, Output};

use common::Checkpoint;
use quest_burn_tests::checkpoint::CheckpointSpec;

/// Of the address space. The program with its libraries and threads takes a quarter of it.
const LIMIT_KIB: u64 = 1 << 20;

/// The program where `ulimit -v` leaves it little.
fn run_limited(checkpoint: &Checkpoint, args: &[&str]) -> Output {
    let quest = checkpoint.command("generate", args);
    Command::new("sh")
        .args(["-c", &format!("ulimit -v {LIMIT_KIB} && exec \"$@\""), "sh"])
        .arg(quest.get_program())
        .args(quest.get_args())
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap()
}

#[test]
fn a_limited_process_refuses_a_cache_and_runs_with_the_longest_that_fits() {
    let checkpoint = Checkpoint::new(&CheckpointSpec {
        max_positions: 4 << 20,
        ..CheckpointSpec::default()
    });
    checkpoint.write_ids(&[7, 33, 90]);
    let ids = checkpoint.path().join("ids.json");
    let args = ["--ids", ids.to_str().unwrap(), "--max-new-tokens", "1"];

    let refused = run_limited(&checkpoint, &[&args[..], &["--context", "4M"]].concat());
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    let error = stderr.lines().last().unwrap();
    assert!(
        error.starts_with("error: memory: expected room for "),
        "{error}"
    );
    assert!(error.contains("for 4194304 tokens"), "{error}");
    assert!(error.contains("ulimit -v"), "{error}");
    let (_, longest) = error
        .split_once("the longest context that fits is ")
        .unwrap();
    let (longest, _) = longest.split_once(" tokens").unwrap();
    assert!(longest.parse::<usize>().unwrap() > 4096, "{error}");

    let runs = run_limited(&checkpoint, &[&args[..], &["--context", longest]].concat());
    let stderr = String::from_utf8(runs.stderr).unwrap();
    assert!(runs.status.success(), "{stderr}");
}
