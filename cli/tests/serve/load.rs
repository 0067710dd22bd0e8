//! `quest bench serve`: load on a server.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Server, quest};

fn bench(args: &[&str]) -> std::process::Output {
    let mut command = quest(&["bench", "serve", "--device", "flex"]);
    command.args(args).output().unwrap()
}

#[test]
fn load_on_a_server_is_measured() {
    let server = Server::start(&["--policy", "dense", "--page-size", "16"]);
    let url = format!("http://{}", server.address);
    let args = [
        "--url",
        &url,
        "--clients",
        "1,3",
        "--requests",
        "4",
        "--prompts",
        "64",
        "--new-tokens",
        "5",
        "--policies",
        "dense,quest",
        "--budget",
        "32",
        "--json",
    ];
    let output = bench(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout.lines().map(serde_json::from_str::<Value>);
    let lines = lines.collect::<Result<Vec<_>, _>>().unwrap();
    let found = lines
        .iter()
        .map(|line| (line["policy"].as_str().unwrap(), line["clients"].as_u64()));
    let expected = [
        ("dense", Some(1)),
        ("dense", Some(3)),
        ("quest", Some(1)),
        ("quest", Some(3)),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
    for line in &lines {
        assert_eq!(line["kind"], "serve");
        assert_eq!(line["model"], "quest-passkey");
        assert_eq!(
            (&line["requests"], &line["refused"]),
            (&json!(4), &json!(0))
        );
        assert_eq!(line["new_tokens"], 5);
        let prompt = line["prompt_tokens"].as_u64().unwrap();
        assert!((48..=80).contains(&prompt), "{line}");
        let at_once = line["tokens_per_delivery"].as_f64().unwrap();
        assert!((1.0..=5.0).contains(&at_once), "{line}");
        for times in ["first_token_ms", "between_deliveries_ms"] {
            // All may have come at once.
            if line[times].is_null() {
                assert_eq!((times, at_once), ("between_deliveries_ms", 5.0));
                continue;
            }
            let at = |share: &str| line[times][share].as_f64().unwrap();
            assert!(at("p50") > 0.0 && at("p50") <= at("p99") && at("p99") <= at("most"));
        }
        assert!(line["requests_per_s"].as_f64().unwrap() > 0.0);
        assert_eq!(line["budget"].is_null(), line["policy"] == "dense");
    }
}

#[test]
fn a_server_is_started_to_be_measured_and_ended() {
    let args = ["--clients", "2", "--requests", "2", "--new-tokens", "3"];
    let output = bench(&[&args[..], &["--", "--page-size", "16"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let heading = stdout.lines().next().unwrap();
    assert!(heading.contains("requests/s") && heading.contains("first p99"));
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
}

#[test]
fn a_key_is_that_of_the_requests_and_of_a_server_that_is_started() {
    let args = ["--clients", "1", "--requests", "1", "--new-tokens", "2"];
    let mut command = quest(&["serve", "--device", "flex", "--port", "0"]);
    let server = Server::spawn(command.env("QUEST_API_KEY", "secret"));
    let url = format!("http://{}", server.address);
    let of_server = ["--url", &url];
    let of_other = ["--api-key", "other"];
    for (more, variable, answer) in [
        (&of_server[..], Some("secret"), None),
        (&of_server, None, Some("found 401")),
        (
            &[&of_server[..], &of_other].concat(),
            Some("secret"),
            Some("found 401"),
        ),
        (&[], Some("secret"), None),
        (&of_other, Some("secret"), None),
        (
            &of_server,
            Some(" "),
            Some("--api-key: expected a key, found an empty one"),
        ),
    ] {
        let mut command = quest(&["bench", "serve", "--device", "flex"]);
        command.args(args).args(more);
        command.envs(variable.map(|key| ("QUEST_API_KEY", key)));
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.success(),
            answer.is_none(),
            "{more:?}: {stderr}"
        );
        assert!(
            stderr.contains(answer.unwrap_or_default()),
            "{more:?}: {stderr}"
        );
    }
}

#[track_caller]
fn ends(mut child: Child) {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_secs(60), "it goes on");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_ends_with_its_stdin_where_that_is_asked_for() {
    let mut command = quest(&["serve", "--device", "flex", "--port", "0"]);
    let command = command.arg("--until-stdin-closes").stdin(Stdio::piped());
    // While it loads, and while it serves.
    drop_stdin(command.stdout(Stdio::null()).spawn().unwrap());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut address).unwrap();
    assert!(address.starts_with("http://"), "{address}");
    drop_stdin(child);
}

#[track_caller]
fn drop_stdin(mut child: Child) {
    drop(child.stdin.take());
    ends(child);
}

#[test]
fn a_server_that_was_started_does_not_outlive_a_measurement_that_is_killed() {
    let clients = vec!["1"; 1000].join(",");
    let mut command = quest(&["bench", "serve", "--device", "flex", "--json"]);
    let command = command.args([
        "--clients",
        &clients,
        "--requests",
        "1",
        "--new-tokens",
        "2",
    ]);
    let mut bench = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut row = String::new();
    let mut stdout = BufReader::new(bench.stdout.take().unwrap());
    stdout.read_line(&mut row).unwrap();
    let row = serde_json::from_str::<Value>(&row).unwrap();
    let address = row["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    TcpStream::connect(address).unwrap();
    // The hardest of signals, which nothing in the program hears.
    bench.kill().unwrap();
    ends(bench);
    let killed = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(killed.elapsed() < Duration::from_secs(60), "it serves on");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn rows_name_the_policy_that_a_started_server_has() {
    let args = ["--clients", "1", "--requests", "1", "--new-tokens", "2"];
    let asked = ["--policies", "default,quest", "--json", "--"];
    let rows = |server: &[&str]| {
        let output = bench(&[&args[..], &asked, server].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let lines = stdout.lines().map(serde_json::from_str::<Value>);
        let rows = lines.map(|line| {
            let line = line.unwrap();
            (line["policy"].clone(), line["budget"].clone())
        });
        rows.collect::<Vec<_>>()
    };
    let quest = |budget: usize| (json!("quest"), json!(budget));
    assert_eq!(rows(&[]), [quest(2048), quest(2048)]);
    assert_eq!(rows(&["--token-budget", "64"]), [quest(64), quest(64)]);
    let dense = (json!("dense"), Value::Null);
    assert_eq!(rows(&["--policy", "dense"]), [dense, quest(2048)]);
}

#[test]
fn what_cannot_be_measured_is_refused_in_a_line() {
    for (args, code, problem) in [
        (
            &["--url", "http://127.0.0.1:9"][..],
            1,
            "expected an answer, found none",
        ),
        (&["--text", "/none"], 2, "--text: expected a text file"),
        (&["--clients", "0"], 2, "--clients"),
        (
            &["--plot", "a.svg"],
            2,
            "--plot: expected none for a server",
        ),
        (
            &["--", "--policy", "h2o"],
            2,
            "quest serve: expected a server",
        ),
    ] {
        let output = bench(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        let error = stderr.lines().find(|line| line.contains(problem));
        assert!(error.is_some(), "{args:?}: {stderr}");
    }
}
