//! Many clients, clients that go away, and the end of the server; over TCP.

mod common;

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use common::{Fixture, Script};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A server on a port of its own.
struct Served {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

async fn serve(fixture: &Fixture) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ending) = oneshot::channel();
    let server = fixture.server.clone();
    let ended = tokio::spawn(async move {
        let shutdown = async {
            ending.await.unwrap();
        };
        server.serve(listener, shutdown).await.unwrap();
    });
    Served {
        address,
        end,
        ended,
    }
}

async fn ask(address: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read(mut stream: TcpStream) -> String {
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

/// An engine whose answers end long after the test.
fn endless() -> Script {
    let mut script = Script::saying(&"a".repeat(900));
    script.pause = Duration::from_millis(100);
    script
}

async fn until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it never came to that"
        );
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_are_all_answered() {
    let mut script = Script::saying("an answer of some length");
    script.pause = Duration::from_millis(2);
    let fixture = Fixture::new(script);
    let served = serve(&fixture).await;
    let clients = (0..200).map(|i| {
        let address = served.address;
        tokio::spawn(async move {
            let is_stream = i % 2 == 0;
            let body = format!(r#"{{"prompt": "{i}", "max_tokens": 50, "stream": {is_stream}}}"#);
            let reply = read(ask(address, &body).await).await;
            assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
            let text = match is_stream {
                true => {
                    let chunks = reply.split("data: ").skip(1).filter_map(|part| {
                        let chunk = serde_json::from_str::<Value>(part.split('\n').next()?).ok()?;
                        Some(chunk["choices"][0]["text"].as_str()?.to_owned())
                    });
                    assert!(reply.contains("[DONE]"));
                    chunks.collect::<String>()
                }
                false => {
                    let body = reply.split("\r\n\r\n").nth(1).unwrap();
                    let body = serde_json::from_str::<Value>(body).unwrap();
                    body["choices"][0]["text"].as_str().unwrap().to_owned()
                }
            };
            assert_eq!(text, "an answer of some length");
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(fixture.script.requests.lock().unwrap().len(), 200);
    until(|| fixture.script.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_cancels_its_answer() {
    for is_stream in [true, false] {
        let fixture = Fixture::new(endless());
        let served = serve(&fixture).await;
        let body = format!(r#"{{"prompt": "a", "max_tokens": 900, "stream": {is_stream}}}"#);
        let stream = ask(served.address, &body).await;
        until(|| fixture.script.running.load(Ordering::SeqCst) == 1).await;
        drop(stream);
        until(|| fixture.script.running.load(Ordering::SeqCst) == 0).await;
        let cancelled = fixture.script.cancelled.load(Ordering::SeqCst);
        assert_eq!(cancelled, 1, "stream: {is_stream}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_answers_come_to_their_ends_before_the_server_does() {
    let mut script = Script::saying("to the end");
    script.pause = Duration::from_millis(20);
    let fixture = Fixture::new(script);
    let served = serve(&fixture).await;
    let body = r#"{"prompt": "a", "max_tokens": 50, "stream": true}"#;
    let stream = ask(served.address, body).await;
    until(|| fixture.script.running.load(Ordering::SeqCst) == 1).await;
    served.end.send(()).unwrap();
    // Who calls in the process sees what a connection that is still open would.
    while fixture.get("/health").await.status != 503 {
        sleep(Duration::from_millis(5)).await;
    }
    fixture.complete(serde_json::json!({})).await.error(503);
    while TcpStream::connect(served.address).await.is_ok() {
        sleep(Duration::from_millis(5)).await;
    }
    let reply = read(stream).await;
    assert!(reply.contains("[DONE]"), "{reply}");
    timeout(Duration::from_secs(60), served.ended)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_serves_on() {
    const MOST: usize = 4;
    let mut script = endless();
    script.most = MOST;
    let fixture = Fixture::new(script);
    let served = serve(&fixture).await;
    let body = r#"{"prompt": "a", "max_tokens": 900}"#;
    let mut waiting = Vec::new();
    for _ in 0..MOST {
        waiting.push(ask(served.address, body).await);
    }
    until(|| fixture.script.running.load(Ordering::SeqCst) == MOST).await;
    for _ in 0..20 {
        let reply = read(ask(served.address, body).await).await;
        assert!(reply.starts_with("HTTP/1.1 429"), "{reply}");
        assert!(reply.contains("retry-after: "), "{reply}");
    }
    drop(waiting);
    until(|| fixture.script.running.load(Ordering::SeqCst) == 0).await;
    *fixture.script.answer.lock().unwrap() = vec![97, common::EOS];
    let reply = read(ask(served.address, body).await).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[tokio::test]
async fn who_comes_while_the_server_ends_is_told_so() {
    let mut script = Script::saying(&"a".repeat(20));
    script.pause = Duration::from_millis(50);
    let fixture = Fixture::new(script);
    let Served {
        address,
        end,
        ended,
    } = serve(&fixture).await;
    let running = ask(address, r#"{"prompt": "a", "max_tokens": 20}"#).await;
    until(|| fixture.script.running.load(Ordering::SeqCst) == 1).await;
    end.send(()).unwrap();
    // The end is noted by a task of its own.
    let mut reply = String::new();
    let started = Instant::now();
    while !reply.contains("503") {
        assert!(started.elapsed() < Duration::from_millis(900), "{reply}");
        reply = read(ask(address, r#"{"prompt": "a", "max_tokens": 1}"#).await).await;
    }
    assert!(reply.contains("shutting_down"), "{reply}");
    assert!(reply.to_lowercase().contains("retry-after"), "{reply}");
    let reply = read(running).await;
    assert!(reply.contains(&"a".repeat(20)), "{reply}");
    timeout(Duration::from_secs(10), ended)
        .await
        .unwrap()
        .unwrap();
}
