//! `quest serve` with the model that ships: asked as clients ask, and ended as systems end it.

#![cfg(all(unix, feature = "serve", feature = "flex", feature = "shipped-model"))]

mod answers;
mod load;
#[cfg(target_os = "linux")]
mod many;
mod refusals;
#[cfg(target_os = "linux")]
mod signals;
mod start;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

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
        Self::spawn(command.args(args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
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
