//! Running the program on small random checkpoints.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use quest_burn_tests::checkpoint::{self, CheckpointSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint in a folder of its own.
pub struct Checkpoint {
    dir: TempDir,
}

impl Checkpoint {
    pub fn new(spec: &CheckpointSpec) -> Self {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), spec);
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file beside the weights.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn write_ids(&self, ids: &[u32]) -> PathBuf {
        self.write("ids.json", json!(ids).to_string())
    }

    /// Changes a JSON file of the checkpoint.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path().join(name);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    }

    /// A tokenizer of the words w0, w1, ... with the beginning and end of a text at 1 and 2.
    pub fn write_tokenizer(&self, vocab_size: usize) {
        let special = |id: u32, content: &str| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let words = (0..vocab_size).map(|id| match id {
            0 => "<unk>".to_owned(),
            1 => "<s>".to_owned(),
            2 => "</s>".to_owned(),
            _ => format!("w{id}"),
        });
        let vocab = words.zip(0..).map(|(word, id)| (word, json!(id)));
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                ],
                "pair": [],
                "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
            },
            "decoder": null,
            "model": {
                "type": "WordLevel",
                "vocab": vocab.collect::<serde_json::Map<_, _>>(),
                "unk_token": "<unk>",
            },
        });
        self.write("tokenizer.json", tokenizer.to_string());
    }

    /// A subcommand on this checkpoint, on the CPU unless the arguments say otherwise.
    pub fn command<A: AsRef<OsStr>>(&self, subcommand: &str, args: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quest"));
        command.arg(subcommand).arg("--model").arg(self.path());
        if !args.iter().any(|arg| arg.as_ref() == "--device") {
            command.args(["--device", "flex"]);
        }
        command.args(args);
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, subcommand: &str, args: &[A]) -> Output {
        self.command(subcommand, args).output().unwrap()
    }

    /// The one JSON object that a subcommand prints.
    #[track_caller]
    pub fn run_json(&self, subcommand: &str, args: &[&str]) -> Value {
        let stdout = self.run_text(subcommand, &[args, &["--json"]].concat());
        let value: Value = serde_json::from_str(&stdout).unwrap();
        assert!(value.is_object(), "{stdout}");
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        value
    }

    /// What a subcommand that succeeds prints.
    #[track_caller]
    pub fn run_text(&self, subcommand: &str, args: &[&str]) -> String {
        let output = self.run(subcommand, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Token ids that repeat nothing in particular.
pub fn ids(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * i + 7 * i + 3) % vocab_size) as u32)
        .collect()
}
