//! Every command that the README shows is run, and prints what stands there but for the numbers.
//!
//! Those with `model.gguf` need the model that `QUEST_BURN_REAL_MODEL` names, and are skipped without it,
//! and said.

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tempfile::TempDir;

const README: &str = include_str!("../../README.md");

/// Commands with a test of their own, which takes long, needs data that does not ship or does not end.
const ELSEWHERE: [&str; 3] = ["check", "longbench", "serve"];

/// What a line of a shell begins with, and a line that is typed into a chat.
const SHELL: &str = "$ ";
const TYPED: &str = "> ";

/// Commands that run at a time, and share the cores: one alone keeps two busy for a part of its time only.
const AT_ONCE: usize = 2;

/// Stands for any lines.
const ANY: &str = "...";

/// A command of the README, and what it shows below it.
struct Documented {
    words: Vec<String>,
    typed: String,
    shown: Vec<String>,
}

/// The fenced parts of a language.
fn fenced(language: &str) -> Vec<&'static str> {
    let parts = README.split("```").skip(1).step_by(2);
    let parts = parts.filter_map(|part| part.split_once('\n'));
    parts
        .filter(|(found, _)| *found == language)
        .map(|(_, text)| text)
        .collect()
}

/// Words as a shell separates them, with quotes and without a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for character in line.chars() {
        match character {
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => break,
            ' ' if !is_quoted => words.push(String::new()),
            character => words.last_mut().unwrap().push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn documented() -> Vec<Documented> {
    let mut all = Vec::<Documented>::new();
    for line in fenced("console").into_iter().flat_map(str::lines) {
        if let Some(command) = line.strip_prefix(SHELL) {
            all.push(Documented {
                words: words(command),
                typed: String::new(),
                shown: Vec::new(),
            });
            continue;
        }
        let last = all.last_mut().expect("a command comes first");
        match line.strip_prefix(TYPED) {
            Some(typed) => last.typed += &format!("{typed}\n"),
            None if line.is_empty() => {}
            None => last.shown.push(line.into()),
        }
    }
    all
}

/// A line with a sign for each number and one space for many.
fn without_numbers(line: &str) -> String {
    let mut masked = String::new();
    for character in line.chars() {
        let sign = match character {
            '0'..='9' | '.' | ',' => '#',
            '-' if masked.ends_with(['#', ' ']) => '#',
            character => character,
        };
        if !(matches!(sign, '#' | ' ') && masked.ends_with(sign)) {
            masked.push(sign);
        }
    }
    masked.trim_end().to_owned()
}

/// Whether lines are those that are shown, in which [`ANY`] stands for any.
fn matches(shown: &[String], found: &[String]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((line, rest)) if line == ANY => {
            (0..=found.len()).any(|skipped| matches(rest, &found[skipped..]))
        }
        Some((line, rest)) => found
            .split_first()
            .is_some_and(|(first, found)| first == line && matches(rest, found)),
    }
}

/// A folder with the files that the README's commands name, without the model.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    fs::copy(text, dir.path().join("text.md")).unwrap();
    dir
}

/// What each command prints. Some run at a time: none reads what another writes.
fn run_all(dir: &Path, commands: &[Documented]) -> Vec<Vec<String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut printed = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(command) = commands.get(index) else {
                return printed;
            };
            let lines = run(dir, &command.words[1..], &command.typed);
            printed.push((index, lines));
        }
    };
    let mut printed = thread::scope(|scope| {
        let workers = [(); AT_ONCE].map(|()| scope.spawn(work));
        workers.map(|worker| worker.join().unwrap()).concat()
    });
    printed.sort();
    printed.into_iter().map(|(_, lines)| lines).collect()
}

fn run(dir: &Path, words: &[String], typed: &str) -> Vec<String> {
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get() / AT_ONCE);
    let mut child = Command::new(env!("CARGO_BIN_EXE_quest"))
        .args(words)
        .env("RAYON_NUM_THREADS", threads.max(1).to_string())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that reads nothing may have ended.
    let _ = stdin.write_all(typed.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout.lines().filter(|line| !line.is_empty());
    lines.map(without_numbers).collect()
}

#[test]
fn what_the_readme_shows_is_what_its_commands_print() {
    let dir = folder();
    let model = env::var_os("QUEST_BURN_REAL_MODEL");
    match &model {
        Some(model) => {
            fs::copy(model, dir.path().join("model.gguf")).unwrap();
        }
        None => {
            // Written directly: the test harness hides what a passing test prints.
            let _ = writeln!(
                io::stderr(),
                "SKIPPED: commands with model.gguf, as QUEST_BURN_REAL_MODEL names none"
            );
        }
    }
    let mut commands = documented();
    commands.retain(|command| {
        assert_eq!(command.words[0], "quest");
        let needs_model = command.words.iter().any(|word| word == "model.gguf");
        let is_elsewhere = ELSEWHERE.contains(&command.words[1].as_str());
        !is_elsewhere && (model.is_some() || !needs_model)
    });
    let found = run_all(dir.path(), &commands);
    for (command, found) in commands.iter().zip(found) {
        let shown = command.shown.iter().map(|line| match line.as_str() {
            ANY => ANY.into(),
            line => without_numbers(line),
        });
        let shown = shown.collect::<Vec<_>>();
        assert!(
            matches(&shown, &found),
            "{:?}\nshown:\n{}\nfound:\n{}",
            command.words,
            shown.join("\n"),
            found.join("\n")
        );
    }
}

#[test]
fn commands_without_output_run_too() {
    let dir = folder();
    for line in fenced("sh").into_iter().flat_map(str::lines) {
        if let Some(line) = line.strip_prefix("quest ") {
            run(dir.path(), &words(line), "");
        }
    }
}

#[test]
fn every_command_is_shown() {
    let help = Command::new(env!("CARGO_BIN_EXE_quest"))
        .arg("--help")
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let commands = help.split("Commands:").nth(1).unwrap();
    let commands = commands.split("Options:").next().unwrap().lines();
    let shown = documented();
    let mut count = 0;
    for command in commands.filter_map(|line| line.split_whitespace().next()) {
        let is_shown = shown.iter().any(|shown| shown.words[1] == command);
        let is_known = is_shown || command == "help" || ELSEWHERE.contains(&command);
        assert!(is_known, "the README does not show `quest {command}`");
        count += 1;
    }
    assert!(count > 10, "{help}");
}

#[test]
fn every_command_has_help() {
    let shown = documented();
    for command in shown
        .iter()
        .map(|shown| &shown.words[1])
        .chain([&"longbench".into()])
    {
        let output = Command::new(env!("CARGO_BIN_EXE_quest"))
            .args([command, "--help"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains(&format!("Usage: quest {command}")), "{help}");
    }
}
