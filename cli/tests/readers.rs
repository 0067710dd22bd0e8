//! Where results go: to a reader that leaves, or to a place that is full.

mod common;

use std::process::{Command, Output, Stdio};

use common::{Checkpoint, ids};
use quest_burn_tests::checkpoint::CheckpointSpec;

/// Runs a command whose standard output nobody reads.
fn without_reader(mut command: Command) -> (Option<i32>, String) {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    drop(child.stdout.take());
    end(&child.wait_with_output().unwrap())
}

fn end(output: &Output) -> (Option<i32>, String) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let checkpoint = Checkpoint::new(&CheckpointSpec::default());
    let ids = checkpoint.write_ids(&ids(8, CheckpointSpec::default().vocab_size));
    let ids = ["--ids", ids.to_str().unwrap()];
    let few = ["--max-new-tokens", "4"];
    let mut commands = vec![checkpoint.command::<&str>("info", &[])];
    for json in [&[][..], &["--json"]] {
        let args = [&ids[..], &few, json].concat();
        commands.push(checkpoint.command("generate", &args));
        let args = [&ids[..], json].concat();
        commands.push(checkpoint.command("perplexity", &args));
    }
    let mut bench = Command::new(env!("CARGO_BIN_EXE_quest"));
    bench.args(["bench", "attention", "--device", "flex", "--contexts", "64"]);
    bench.args(["--budgets", "32", "--heads", "2:1", "--head-dim", "16"]);
    bench.args(["--rounds", "1", "--round-ms", "1"]);
    commands.push(bench);
    for command in commands {
        let name = format!("{command:?}");
        let (code, stderr) = without_reader(command);
        assert_eq!(code, Some(0), "{name}: {stderr}");
        assert!(
            !stderr.contains("error") && !stderr.contains("panicked"),
            "{name}: {stderr}"
        );
    }
}

#[test]
fn a_plot_is_drawn_even_if_nobody_reads_the_rows() {
    let checkpoint = Checkpoint::new(&CheckpointSpec::default());
    let ids = checkpoint.write_ids(&ids(40, CheckpointSpec::default().vocab_size));
    let plot = checkpoint.path().join("plot.svg");
    let mut command = checkpoint.command("perplexity", &["--policies", "quest,dense"]);
    command.args(["--budgets", "16", "--window", "10"]);
    command.arg("--ids").arg(ids).arg("--plot").arg(&plot);
    let (code, stderr) = without_reader(command);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(plot.exists(), "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_that_is_full_is_an_error() {
    let checkpoint = Checkpoint::new(&CheckpointSpec::default());
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = checkpoint.command::<&str>("info", &[]);
    let output = command.stdout(full.unwrap()).output().unwrap();
    let (code, stderr) = end(&output);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: stdout: No space left"), "{stderr}");
}
