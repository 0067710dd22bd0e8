//! Running the program on small random checkpoints.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::{
    ffi::OsStr,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use quest_burn_tests::{
    checkpoint::{self, CheckpointSpec},
    tokenizer::{BYTE_VOCABULARY, write_bytes},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint in a folder of its own.
pub(crate) struct Checkpoint {
    dir: TempDir,
}

impl Checkpoint {
    pub(crate) fn new(spec: &CheckpointSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), spec);
        Self { dir }
    }

    /// A model of bytes with its tokenizer.
    pub(crate) fn of_bytes() -> Self {
        let checkpoint = Self::new(&CheckpointSpec {
            vocab_size: BYTE_VOCABULARY,
            ..CheckpointSpec::default()
        });
        write_bytes(checkpoint.path());
        checkpoint
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file next to the weights.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn write_ids(&self, ids: &[u32]) -> PathBuf {
        self.write("ids.json", json!(ids).to_string())
    }

    /// Changes a JSON file of the checkpoint.
    pub(crate) fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path().join(name);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    }

    /// A subcommand on this checkpoint, on the CPU unless the arguments say otherwise.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, subcommand: &str, args: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quest"));
        command.arg(subcommand).arg("--model").arg(self.path());
        if !args.iter().any(|arg| arg.as_ref() == "--device") {
            command.args(["--device", "flex"]);
        }
        command.args(args);
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, subcommand: &str, args: &[A]) -> Output {
        self.command(subcommand, args).output().unwrap()
    }

    /// The one JSON object that a subcommand prints.
    #[track_caller]
    pub(crate) fn run_json(&self, subcommand: &str, args: &[&str]) -> Value {
        let stdout = self.run_text(subcommand, &[args, &["--json"]].concat());
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert!(value.is_object(), "{stdout}");
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        value
    }

    /// What a subcommand that succeeds prints.
    #[track_caller]
    pub(crate) fn run_text(&self, subcommand: &str, args: &[&str]) -> String {
        let output = self.run(subcommand, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line that says why a subcommand is refused.
    #[track_caller]
    pub(crate) fn run_refused<A: AsRef<OsStr> + Debug>(
        &self,
        subcommand: &str,
        args: &[A],
    ) -> String {
        let output = self.run(subcommand, args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}: output on stdout");
        let errors = stderr.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{args:?}: {stderr}");
        let error = stderr.lines().last().unwrap();
        assert!(error.starts_with("error: "), "{args:?}: {stderr}");
        error.to_owned()
    }

    /// Asserts that a subcommand prints the same with a file of rows, and once that has been cut.
    /// Returns the arguments with that file, and the file.
    #[track_caller]
    pub(crate) fn assert_resumes(&self, subcommand: &str, args: &[&str]) -> (Vec<String>, PathBuf) {
        let whole = self.run_text(subcommand, args);
        let file = self.path().join("rows.jsonl");
        let args = [args, &["--resume", file.to_str().unwrap()]].concat();
        // From nothing, then from all of the rows.
        for _ in 0..2 {
            assert_eq!(self.run_text(subcommand, &args), whole);
        }
        let rows = fs::read(&file).unwrap();
        // Wherever it was cut, and be it within a character.
        fs::write(&file, &rows[..rows.len() * 3 / 4]).unwrap();
        assert_eq!(self.run_text(subcommand, &args), whole);
        assert_eq!(fs::read(&file).unwrap(), rows);
        (args.into_iter().map(str::to_owned).collect(), file)
    }
}

/// Token ids that repeat nothing in particular.
pub(crate) fn ids(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * i + 7 * i + 3) % vocab_size) as u32)
        .collect()
}
