//! How large, long, slow and many requests may be.

mod common;

use std::time::Duration;

use axum::body::Body;
use common::{Fixture, Script};
use quest_burn_serve::{Limits, SubmitError};
use serde_json::json;

#[tokio::test]
async fn a_body_may_be_so_large_and_no_larger() {
    let limits = Limits {
        body_bytes: 100,
        ..Limits::default()
    };
    let fixture = Fixture::limited(Script::saying("x"), limits);
    let body = |size: usize| format!("{:size$}", r#"{"prompt": "a"}"#);
    fixture.post("/v1/completions", body(100)).await.ok();
    let error = fixture.post("/v1/completions", body(101)).await.error(413);
    assert_eq!(
        error["message"],
        "body: expected at most 100 bytes, found more"
    );
    // What does not say how long it is.
    let parts = Body::new(http_body_util::StreamBody::new(Endless));
    fixture.post("/v1/completions", parts).await.error(413);
}

/// Spaces without end.
struct Endless;

impl futures_core::Stream for Endless {
    type Item = Result<http_body::Frame<axum::body::Bytes>, std::io::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let spaces = axum::body::Bytes::from_static(&[b' '; 64]);
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(spaces))))
    }
}

#[tokio::test]
async fn prompts_and_answers_may_be_so_long_and_no_longer() {
    let limits = Limits {
        prompt_tokens: 10,
        answer_tokens: 20,
        ..Limits::default()
    };
    let fixture = Fixture::limited(Script::saying("x"), limits);
    let reply = fixture
        .complete(json!({ "prompt": "a".repeat(10), "max_tokens": 1 }))
        .await;
    assert_eq!(reply.error(400)["param"], "prompt");
    let reply = fixture.complete(json!({ "max_tokens": 21 })).await;
    assert_eq!(
        reply.error(400)["message"],
        "max_tokens: expected at most 20, found 21"
    );
    fixture.complete(json!({ "max_tokens": 20 })).await.ok();
    fixture.complete(json!({ "max_tokens": null })).await.ok();
    assert_eq!(fixture.asked().max_new_tokens, 16);
}

#[tokio::test]
async fn an_answer_may_take_so_long_and_no_longer() {
    let limits = Limits {
        time: Some(Duration::from_millis(80)),
        ..Limits::default()
    };
    let mut script = Script::saying("a slow answer");
    script.pause = Duration::from_millis(30);
    let fixture = Fixture::limited(script, limits);
    let error = fixture.complete(json!({})).await.error(503);
    assert_eq!(error["code"], "timeout");
    let reply = fixture.complete(json!({ "stream": true })).await;
    assert!(reply.text.contains(r#""code":"timeout""#), "{}", reply.text);
    assert!(!reply.text.contains("[DONE]"));
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_again() {
    let fixture = Fixture::saying("x");
    *fixture.script.refuses.lock().unwrap() = Some(SubmitError::QueueFull("queue: full".into()));
    let reply = fixture.chat(json!({})).await;
    assert_eq!(reply.error(429)["type"], "rate_limit_error");
    assert!(
        reply.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );

    let limits = Limits {
        requests: 0,
        ..Limits::default()
    };
    let fixture = Fixture::limited(Script::saying("x"), limits);
    let reply = fixture.chat(json!({})).await;
    reply.error(429);
    assert!(reply.headers.contains_key("retry-after"));
}
