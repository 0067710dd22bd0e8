//! `quest convert`: nothing is lost, nothing is overwritten, nothing is left behind.

mod common;

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use common::Checkpoint;
use quest_burn_tests::{
    checkpoint::CheckpointSpec,
    gguf::{GgufSpec, Pair},
};
use serde_json::Value;

fn convert<A: AsRef<OsStr>>(model: &Path, args: &[A]) -> Output {
    command(model, args).output().unwrap()
}

fn command<A: AsRef<OsStr>>(model: &Path, args: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quest"));
    command.arg("convert").arg("--model").arg(model).args(args);
    command
}

#[track_caller]
fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "output on stdout");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut names = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort();
    names
}

/// What a model says after three words.
fn generated(model: &Path) -> String {
    let args = [
        "--prompt",
        "one two three",
        "--max-new-tokens",
        "12",
        "--device",
        "flex",
    ];
    let quest = Command::new(env!("CARGO_BIN_EXE_quest"))
        .arg("generate")
        .arg("--model")
        .arg(model)
        .args(args)
        .output();
    stdout(&quest.unwrap())
}

#[test]
fn a_folder_goes_through_burnpack_and_back() {
    let checkpoint = Checkpoint::of_bytes();
    checkpoint.write("generation_config.json", r#"{ "eos_token_id": 1 }"#);
    let place = tempfile::tempdir().unwrap();
    let [packed, back] = ["packed", "back"].map(|name| place.path().join(name));
    let args = [packed.as_os_str(), "--to".as_ref(), "burnpack".as_ref()];
    let told = stdout(&convert(checkpoint.path(), &args));
    assert!(told.starts_with(packed.to_str().unwrap()), "{told}");
    assert_eq!(
        names(&packed),
        [
            "config.json",
            "generation_config.json",
            "model.bpk",
            "tokenizer.json"
        ]
    );
    let args = [back.as_os_str(), "--json".as_ref()];
    let told = stdout(&convert(&packed, &args));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["format"], "safetensors");
    assert_eq!(told["folder"], back.to_str().unwrap());
    let files = told["files"].as_array().unwrap();
    assert_eq!(files.len(), names(&back).len());

    for name in ["config.json", "tokenizer.json", "generation_config.json"] {
        let read = |dir: &Path| fs::read(dir.join(name)).unwrap();
        assert_eq!(read(&back), read(checkpoint.path()), "{name}");
    }
    let expected = generated(checkpoint.path());
    assert_eq!(generated(&packed), expected);
    assert_eq!(generated(&back), expected);
    assert_eq!(names(place.path()), ["back", "packed"]);
}

#[test]
fn a_gguf_file_becomes_a_folder_that_is_the_same_model() {
    let place = tempfile::tempdir().unwrap();
    let pair = Pair::new(&GgufSpec::default());
    let file = place.path().join("model.gguf");
    fs::write(&file, pair.gguf.bytes()).unwrap();
    let folder = place.path().join("folder");
    stdout(&convert(&file, &[&folder]));
    let info = |model: &Path| {
        let quest = Command::new(env!("CARGO_BIN_EXE_quest"))
            .args(["info", "--json", "--device", "flex", "--model"])
            .arg(model)
            .output();
        serde_json::from_str::<Value>(&stdout(&quest.unwrap())).unwrap()
    };
    assert_eq!(info(&folder), info(&file));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let checkpoint = Checkpoint::of_bytes();
    let place = tempfile::tempdir().unwrap();
    let there = place.path().join("there");
    fs::create_dir(&there).unwrap();
    let error = refusal(&convert(checkpoint.path(), &[&there]));
    let expected = format!(
        "error: {}: expected nothing there yet, found something",
        there.display()
    );
    assert_eq!(error, expected);

    let error = refusal(&convert(checkpoint.path(), &[&place.path().join("a/b")]));
    assert!(error.contains("a/b: expected the folder"), "{error}");

    let absent = place.path().join("absent");
    let error = refusal(&convert(&absent, &[&place.path().join("new")]));
    assert!(error.contains("found nothing"), "{error}");

    checkpoint.write("model.safetensors", "no weights at all");
    let error = refusal(&convert(checkpoint.path(), &[&place.path().join("new")]));
    assert!(
        error.contains("model.safetensors: expected safetensors weights"),
        "{error}"
    );
    assert_eq!(names(place.path()), ["there"], "nothing else is left");
}

/// Whenever the signal comes.
#[cfg(unix)]
#[test]
fn a_conversion_that_is_interrupted_leaves_nothing() {
    let checkpoint = Checkpoint::new(&CheckpointSpec {
        vocab_size: 200_000,
        ..CheckpointSpec::default()
    });
    for (signal, wait) in [
        ("INT", 0),
        ("TERM", 20),
        ("INT", 40),
        ("HUP", 60),
        ("INT", 100),
    ] {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("folder");
        let mut running = command(checkpoint.path(), &[&folder]).spawn().unwrap();
        thread::sleep(Duration::from_millis(wait));
        let id = running.id().to_string();
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-s", signal, &id]).output();
        let status = running.wait().unwrap();
        let expected: &[&str] = match status.success() {
            true => &["folder"],
            false => &[],
        };
        assert_eq!(
            names(place.path()),
            expected,
            "{signal} after {wait} ms: {status}"
        );
    }
}
