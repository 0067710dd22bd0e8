//! Conversations with a real chat model, SmolLM2-135M-Instruct in a GGUF file that `QUEST_BURN_REAL_MODEL`
//! names. Skipped without it, and said.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::{Command, Stdio},
};

use serde_json::Value;

fn model() -> Option<OsString> {
    let model = env::var_os("QUEST_BURN_REAL_MODEL");
    if model.is_none() {
        // Written directly: the test harness hides what a passing test prints.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: QUEST_BURN_REAL_MODEL names no model"
        );
    }
    model
}

fn answers(model: &OsString, args: &[&str], script: &str) -> Vec<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quest"))
        .args(["chat", "--device", "flex", "--json", "--model"])
        .arg(model)
        .args(["--temperature", "0", "--max-new-tokens", "16"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout.lines();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|answer| answer["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Asked first, again, and of what the cache holds.
#[test]
fn the_same_question_has_the_same_answer_however_much_of_it_is_in_the_cache() {
    let Some(model) = model() else { return };
    const QUESTION: &str = "What is the capital of France?";
    let script = format!("{QUESTION}\n/retry\n/reset\n{QUESTION}\n");
    for args in [&["--policy", "dense"], &["--policy", "quest"]] {
        let answers = answers(&model, args, &script);
        let expected = "The capital of France is Paris.";
        assert_eq!(answers, [expected; 3], "{args:?}");
    }
}
