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
    let name = case.name;
    println!("{name}");
    let error = checkpoint.run_refused(case.subcommand, &replaced.collect::<Vec<_>>());
    for expected in case.expected {
        assert!(error.contains(expected), "{name}: {expected:?} in {error}");
    }
}
