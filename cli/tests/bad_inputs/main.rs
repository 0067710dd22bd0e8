//! What cannot be served gets one line that says why, and exit code 2.

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod devices;
mod options;
mod prompts;

use common::{Checkpoint, ids};
use quest_burn_tests::checkpoint::CheckpointSpec;

const IDS: &str = "{ids}";

/// One bad input.
struct Case {
    name: &'static str,
    spec: CheckpointSpec,
    /// What is wrong with the checkpoint.
    spoil: fn(&Checkpoint),
    subcommand: &'static str,
    /// `{ids}` stands for a file with eight good ids.
    args: &'static [&'static str],
    /// Parts of the message.
    expected: &'static [&'static str],
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            spec: CheckpointSpec {
                n_layers: 2,
                max_positions: 64,
                ..CheckpointSpec::default()
            },
            spoil: |_| (),
            subcommand: "generate",
            args: &["--ids", IDS, "--max-new-tokens", "4"],
            expected: &[],
        }
    }
}

#[track_caller]
fn assert_refused(case: &Case) {
    let checkpoint = Checkpoint::new(&case.spec);
    let ids = checkpoint.write_ids(&ids(8, case.spec.vocab_size));
    (case.spoil)(&checkpoint);
    let replaced = case.args.iter().map(|arg| {
        let path = checkpoint.path().to_str().unwrap();
        arg.replace(IDS, ids.to_str().unwrap())
            .replace("{dir}", path)
    });
    let output = checkpoint.run(case.subcommand, &replaced.collect::<Vec<_>>());

    let name = case.name;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
    assert!(output.stdout.is_empty(), "{name}: output on stdout");
    let errors = stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{name}: {stderr}");
    let error = stderr.lines().last().unwrap();
    assert!(error.starts_with("error: "), "{name}: {stderr}");
    for expected in case.expected {
        assert!(error.contains(expected), "{name}: {expected:?} in {error}");
    }
}
