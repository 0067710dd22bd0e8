//! `quest serve` with the model that ships: asked as clients ask, and ended as systems end it.

#![cfg(all(unix, feature = "serve", feature = "flex", feature = "shipped-model"))]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const QUESTION: &str = "The code of the old lamp is 407. The code of the red door is 93. What is the code of \
                        the old lamp? The code of the old lamp is";

/// A server that is ended with the test.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn quest(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quest"));
    command.args(args).env_remove("QUEST_API_KEY");
    command
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = quest(&["serve", "--device", "flex", "--port", "0"]);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut address).unwrap();
        let address = address.trim().strip_prefix("http://").unwrap().to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        Self { child, address }
    }

    fn connect(&self, path: &str, body: Option<&Value>) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }

    /// Status and body.
    fn ask(&self, path: &str, body: Option<&Value>) -> (u16, String) {
        let mut reply = String::new();
        self.connect(path, body).read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    fn json(&self, path: &str, body: &Value) -> Value {
        let (status, body) = self.ask(path, Some(body));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.ask("/metrics", None);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    fn terminate(mut self) -> i32 {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(killed.success());
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "it did not end"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn streamed(reply: &str) -> String {
    let chunks = reply
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    let chunks = chunks.map(|chunk| serde_json::from_str::<Value>(&format!("{{{chunk}")).unwrap());
    let texts = chunks.filter_map(|chunk| Some(chunk["choices"][0]["text"].as_str()?.to_owned()));
    texts.collect()
}

#[test]
fn the_model_that_ships_is_served() {
    let server = Server::start(&[
        "--alias",
        "passkey",
        "--policy",
        "dense",
        "--page-size",
        "16",
    ]);
    let (status, body) = server.ask("/v1/models", None);
    let models = serde_json::from_str::<Value>(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(models["data"][0]["id"], "quest-passkey");
    assert_eq!(models["data"][1]["id"], "passkey");

    // The same as `quest generate`, however it is asked.
    let args = [
        "--prompt",
        QUESTION,
        "--max-new-tokens",
        "4",
        "--policy",
        "dense",
        "--json",
    ];
    let generated = quest(&[&["generate", "--device", "flex"], &args[..]].concat())
        .output()
        .unwrap();
    let generated = serde_json::from_slice::<Value>(&generated.stdout).unwrap();
    let text = generated["text"].as_str().unwrap();
    assert!(text.contains("407"), "{text}");
    let asked =
        json!({ "model": "passkey", "prompt": QUESTION, "max_tokens": 4, "temperature": 0 });
    let answer = server.json("/v1/completions", &asked);
    assert_eq!(answer["choices"][0]["text"], text);
    let mut stream = asked.clone();
    stream["stream"] = true.into();
    let (_, reply) = server.ask("/v1/completions", Some(&stream));
    assert_eq!(streamed(&reply), text);
    assert!(reply.contains("data: [DONE]"));

    // Tokens there and back.
    let tokens = server.json("/tokenize", &json!({ "prompt": QUESTION }));
    assert_eq!(tokens["count"], answer["usage"]["prompt_tokens"]);
    let mut by_ids = asked.clone();
    by_ids["prompt"] = tokens["tokens"].clone();
    assert_eq!(
        server.json("/v1/completions", &by_ids)["choices"],
        answer["choices"]
    );
    // As vLLM has it, special tokens are part of the text.
    let back = server.json("/detokenize", &json!({ "tokens": tokens["tokens"] }));
    assert_eq!(back["prompt"], format!("<s>{QUESTION}"));

    // Draws with a seed are the same each time, and log-probabilities are those of the greedy tokens.
    let drawn =
        json!({ "prompt": QUESTION, "temperature": 1.5, "seed": 7, "n": 3, "max_tokens": 8 });
    let answers = [
        server.json("/v1/completions", &drawn),
        server.json("/v1/completions", &drawn),
    ];
    assert_eq!(answers[0]["choices"], answers[1]["choices"]);
    assert_ne!(
        answers[0]["choices"][0]["text"],
        answers[0]["choices"][1]["text"]
    );
    let mut scored = asked.clone();
    scored["logprobs"] = 2.into();
    let scored = server.json("/v1/completions", &scored)["choices"][0]["logprobs"].clone();
    let tokens = scored["tokens"].as_array().unwrap();
    assert_eq!(
        tokens
            .iter()
            .map(|token| token.as_str().unwrap())
            .collect::<String>(),
        text
    );
    for (logprob, top) in scored["token_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .zip(scored["top_logprobs"].as_array().unwrap())
    {
        let best = top
            .as_object()
            .unwrap()
            .values()
            .map(|value| value.as_f64().unwrap());
        assert_eq!(
            best.fold(f64::NEG_INFINITY, f64::max),
            logprob.as_f64().unwrap()
        );
    }

    // What a watched stream read lies on the pages of the prompt.
    let mut watched = stream.clone();
    watched["quest"] = json!({ "watch": true, "token_budget": 16 });
    let (_, reply) = server.ask("/v1/completions", Some(&watched));
    assert!(reply.contains("\"page_size\":16"), "{reply}");
    assert!(reply.contains("\"reads\":[{\"layer\":0"), "{reply}");

    // A model without a chat template says so; what is wrong is told.
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    let (status, body) = server.ask("/v1/chat/completions", Some(&chat));
    assert_eq!(status, 400);
    assert!(body.contains("no_chat_template"), "{body}");
    let (status, body) = server.ask("/v1/completions", Some(&json!({ "prompt": "a", "n": 0 })));
    assert_eq!(
        (status, body.contains("\"param\":\"n\"")),
        (400, true),
        "{body}"
    );
    let budget = json!({ "prompt": "a", "quest": { "token_budget": 3 } });
    let (status, body) = server.ask("/v1/completions", Some(&budget));
    assert_eq!(
        (status, body.contains("quest.token_budget")),
        (400, true),
        "{body}"
    );

    // An answer follows a grammar, whatever the model would say; one that makes no sense is refused.
    let bound = json!({
        "prompt": QUESTION, "max_tokens": 400, "response_format": { "type": "json_schema", "json_schema": {
            "name": "code", "schema": {
                "type": "object", "properties": { "code": { "enum": [407, 93] } },
                "required": ["code"], "additionalProperties": false,
            },
        } },
    });
    let answer = server.json("/v1/completions", &bound);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop", "{choice}");
    let object = serde_json::from_str::<Value>(choice["text"].as_str().unwrap()).unwrap();
    assert!(object["code"] == 407 || object["code"] == 93, "{object}");
    let bad = json!({ "prompt": "a", "guided_regex": "(" });
    let (status, body) = server.ask("/v1/completions", Some(&bad));
    assert_eq!(status, 400);
    assert!(
        body.contains("guided_regex: regular expression: "),
        "{body}"
    );

    // A special token in a prompt is text, unless it is asked to be that token.
    let count = |parse: bool| {
        let asked = json!({ "prompt": "a</s>", "parse_special": parse });
        server.json("/tokenize", &asked)["count"].as_u64().unwrap()
    };
    assert!(count(false) > count(true));

    // Whoever goes away frees what was held.
    let long = json!({
        "prompt": QUESTION, "max_tokens": 4000, "stream": true, "ignore_eos": true,
    });
    let mut stream = server.connect("/v1/completions", Some(&long));
    let mut first = [0; 64];
    stream.read_exact(&mut first).unwrap();
    drop(stream);
    let started = Instant::now();
    while server.metric("quest_cancelled_total") < 1 || server.metric("quest_used_pages") > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "its pages are held"
        );
        thread::sleep(Duration::from_millis(50));
    }

    // A running answer comes to its end, then the server does.
    let last = json!({
        "prompt": QUESTION, "max_tokens": 200, "stream": true, "ignore_eos": true, "temperature": 0,
    });
    let mut stream = server.connect("/v1/completions", Some(&last));
    let mut first = [0; 64];
    stream.read_exact(&mut first).unwrap();
    let ended = thread::spawn(move || server.terminate());
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("data: [DONE]"), "{reply}");
    assert_eq!(ended.join().unwrap(), 0);
}

#[test]
fn what_cannot_be_served_is_refused_in_a_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, problem) in [
        (vec!["--port", &*port], "expected an address that is free"),
        (
            vec!["--policy", "h2o"],
            "--policy: expected dense or quest, found h2o",
        ),
        (
            vec!["--prefill-policy", "lazy"],
            "--prefill-policy: expected dense with serve, found lazy",
        ),
        (
            vec!["--prefill-policy", "quest"],
            "--prefill-policy: expected dense with serve, found quest",
        ),
        (vec!["--api-key", ""], "--api-key: expected a key"),
        (
            vec!["--max-sequences", "0"],
            "--max-sequences <N>': expected a number of sequences from 1 to 2147483647",
        ),
        (
            vec!["--step-tokens", "8"],
            "--step-tokens, --max-sequences: tokens of a step: expected at least",
        ),
        (
            vec!["--timeout", "0"],
            "--timeout <SECONDS>': 0 is not in 1..=",
        ),
        (
            vec!["--system", "Be brief."],
            "--system: expected --chat-template too",
        ),
        (
            vec!["--context", "1M"],
            "--context: the checkpoint is made for at most",
        ),
        (vec!["--host", "here"], "--host"),
        (
            vec!["--timeout", "99999999999999"],
            "is not in 1..=315360000",
        ),
        (
            vec!["--max-requests", "3000000000"],
            "expected a number from 1 to 2147483647",
        ),
        (
            vec!["--context", "4K", "--cache-tokens", "2K"],
            "--cache-tokens: expected at least 4096, as --context says, found 2048",
        ),
    ] {
        let output = quest(&["serve", "--device", "flex"])
            .args(&args)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty());
        let error = stderr.lines().last().unwrap();
        assert!(
            error.starts_with("error: ") && error.contains(problem),
            "{args:?}: {error}"
        );
    }
}

/// Whether a process handles SIGTERM itself.
#[cfg(target_os = "linux")]
fn catches_sigterm(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    // Signal 15 is bit 14.
    caught >> 14 & 1 == 1
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_while_the_model_is_loaded_is_a_clean_end() {
    // Before, while and after the weights are read.
    for delay in [0, 20, 60, 200] {
        let mut command = quest(&["serve", "--device", "flex", "--port", "0"]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Server {
            child,
            address: String::new(),
        };
        while !catches_sigterm(server.child.id()) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(delay));
        assert_eq!(server.terminate(), 0, "after {delay} ms");
    }
}

#[test]
fn a_context_that_the_cache_cuts_is_told_and_the_device_is_named_once() {
    let mut command = quest(&["serve", "--port", "0", "--cache-tokens", "2K"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut address).unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let server = Server { child, address };
    assert_eq!(server.terminate(), 0);
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("device:").count(), 1, "{said}");
    let warning = "warning: the context is 2048 tokens instead of";
    assert!(said.contains(warning), "{said}");
    assert!(said.contains("as --cache-tokens says"), "{said}");
}

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
        for times in ["first_token_ms", "between_tokens_ms"] {
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
