//! Values that look like something else, and files that are no files.

mod common;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use common::Checkpoint;
use serde_json::Value;

/// What a subcommand does with this on stdin.
fn run_with_stdin(
    checkpoint: &Checkpoint,
    subcommand: &str,
    args: &[&str],
    stdin: &[u8],
) -> Output {
    let mut child = checkpoint
        .command(subcommand, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_text_may_begin_with_a_dash() {
    let checkpoint = Checkpoint::of_bytes();
    let generate = |prompt: &str| {
        checkpoint.run_json("generate", &["--max-new-tokens", "1", "--prompt", prompt])
    };
    let of_letter = generate("x")["prompt_tokens"].as_u64().unwrap();
    for prompt in ["- item", "--policy", "-1", "-"] {
        let tokens = generate(prompt)["prompt_tokens"].as_u64().unwrap();
        assert_eq!(tokens, of_letter + prompt.len() as u64 - 1, "{prompt}");
    }
}

#[test]
fn a_dash_is_stdin_wherever_a_file_is_read() {
    let checkpoint = Checkpoint::of_bytes();
    let ids = checkpoint.write_ids(&[7, 33, 90, 12]);
    let text = checkpoint.write("text.txt", "deep sea");
    let (ids, text) = (ids.to_str().unwrap(), text.to_str().unwrap());
    for (subcommand, args, option, file) in [
        (
            "generate",
            &["--max-new-tokens", "2"][..],
            "--prompt-file",
            text,
        ),
        ("generate", &["--max-new-tokens", "2"], "--ids", ids),
        ("perplexity", &[], "--text", text),
        ("perplexity", &[], "--ids", ids),
    ] {
        let with = |file| [args, &[option, file, "--json"]].concat();
        let mut expected = json(&checkpoint.run(subcommand, &with(file)));
        let content = std::fs::read(file).unwrap();
        let output = run_with_stdin(&checkpoint, subcommand, &with("-"), &content);
        let mut found = json(&output);
        for value in [&mut expected, &mut found] {
            // Speeds differ from run to run.
            let fields = value.as_object_mut().unwrap();
            fields.retain(|name, _| !name.ends_with("_per_s"));
        }
        assert_eq!(found, expected, "{subcommand} {option}");
    }
    let output = run_with_stdin(&checkpoint, "generate", &["--ids", "-"], b"[1, -2]");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("expected a token id, found -2"), "{stderr}");
}

#[test]
fn numbers_of_tokens_have_units_in_every_option() {
    let checkpoint = Checkpoint::of_bytes();
    checkpoint.write_ids(&[7, 33, 90]);
    let ids = checkpoint.path().join("ids.json");
    let ids = ids.to_str().unwrap();
    let error = checkpoint.run_refused("generate", &["--ids", ids, "--max-new-tokens", "2K"]);
    assert!(error.contains("and 2048 new tokens"), "{error}");
    let args = [
        "--ids",
        ids,
        "--max-new-tokens",
        "2",
        "--prefill-chunk",
        "1k",
    ];
    checkpoint.run_text("generate", &args);
}

#[cfg(unix)]
#[test]
fn files_that_never_end_are_refused() {
    let checkpoint = Checkpoint::of_bytes();
    for (subcommand, args, expected) in [
        (
            "generate",
            &["--ids", "/dev/zero"][..],
            "/dev/zero: expected at most 256",
        ),
        (
            "perplexity",
            &["--text", "/dev/zero"],
            "/dev/zero: expected at most 256",
        ),
        (
            "passkey",
            &["--lengths", "512", "--resume", "/dev/zero"],
            "/dev/zero: expected a readable file of results: it is no regular file",
        ),
    ] {
        let error = checkpoint.run_refused(subcommand, args);
        assert!(error.contains(expected), "{error}");
    }
}

/// So that nothing is left behind there, however the program ends.
#[test]
fn the_model_in_the_program_needs_no_temporary_folder() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[1, 7, 33, 90]").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quest"))
        .args(["generate", "--device", "flex", "--max-new-tokens", "1"])
        .arg("--ids")
        .arg(&ids)
        .env("TMPDIR", dir.path().join("absent"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    // A build without the model says so.
    assert!(
        output.status.success() || stderr.contains("carries no model"),
        "{stderr}"
    );
}

#[test]
fn nothing_is_beside_the_model_in_the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_quest"))
        .args(["generate", "--prompt", "a", "--activation-sparsity"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let problem = "--activation-sparsity: expected a file, found none, and no --model";
    assert!(
        stderr.contains(problem) || stderr.contains("carries no model"),
        "{stderr}"
    );
}
