//! Paths beside those that answer.

mod common;

use std::collections::BTreeSet;

use common::{CONTEXT, Fixture};
use serde_json::{Value, json};

#[tokio::test]
async fn models_are_listed_and_found() {
    let fixture = Fixture::saying("x");
    let list = fixture.get("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    let names = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["org/bytes", "alias"]);
    let model = fixture.get("/v1/models/org/bytes").await.ok();
    assert_eq!(
        (&model["object"], &model["id"]),
        (&json!("model"), &json!("org/bytes"))
    );
    assert_eq!(model["max_model_len"], CONTEXT);
    assert!(model["created"].is_u64());
}

#[tokio::test]
async fn texts_become_tokens_and_tokens_text() {
    let fixture = Fixture::saying("x");
    let tokens = fixture.post("/tokenize", r#"{"prompt": "hé"}"#).await.ok();
    let expected = json!({ "tokens": [258, 104, 195, 169], "count": 4, "max_model_len": CONTEXT });
    assert_eq!(tokens, expected);
    let body = r#"{"prompt": "h", "add_special_tokens": false, "return_token_strs": true}"#;
    let tokens = fixture.post("/tokenize", body).await.ok();
    assert_eq!(
        (&tokens["tokens"], &tokens["token_strs"]),
        (&json!([104]), &json!(["h"]))
    );
    let body = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let tokens = fixture.post("/tokenize", body).await.ok();
    assert_eq!(tokens["count"], r#"<"user">"a""#.len());
    let text = fixture
        .post("/detokenize", r#"{"tokens": [104, 195, 169]}"#)
        .await
        .ok();
    assert_eq!(text, json!({ "prompt": "hé" }));
}

#[tokio::test]
async fn tokens_that_make_no_sense_are_refused() {
    let fixture = Fixture::saying("x");
    for (path, body, param) in [
        ("/tokenize", r#"{}"#, "prompt"),
        ("/tokenize", r#"{"prompt": 1}"#, "prompt"),
        ("/tokenize", r#"{"prompt": "a", "messages": []}"#, "prompt"),
        ("/tokenize", r#"{"content": "a"}"#, "prompt"),
        (
            "/tokenize",
            r#"{"prompt": "a", "with_pieces": true}"#,
            "with_pieces",
        ),
        ("/detokenize", r#"{}"#, "tokens"),
        ("/detokenize", r#"{"tokens": "a"}"#, "tokens"),
        ("/detokenize", r#"{"tokens": [1, 300]}"#, "tokens[1]"),
        ("/detokenize", r#"{"tokens": [], "text": 1}"#, "text"),
    ] {
        assert_eq!(
            fixture.post(path, body).await.error(400)["param"],
            param,
            "{body}"
        );
    }
}

#[tokio::test]
async fn health_says_what_is_going_on() {
    let fixture = Fixture::saying("x");
    let health = json!({ "status": "ok", "running": 0, "waiting": 0 });
    assert_eq!(fixture.get("/health").await.ok(), health);
}

#[tokio::test]
async fn metrics_are_counted() {
    let fixture = Fixture::saying("abc");
    fixture.complete(json!({})).await.ok();
    fixture.complete(json!({ "n": 0 })).await.error(400);
    let reply = fixture.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    for line in [
        r#"quest_requests_total{path="/v1/completions",status="200"} 1"#,
        r#"quest_requests_total{path="/v1/completions",status="400"} 1"#,
        "quest_time_to_first_token_seconds_count 1",
        "quest_time_between_tokens_seconds_count 3",
        "# TYPE quest_pages gauge",
        "quest_pages 100",
        "quest_new_tokens_total 0",
    ] {
        assert!(
            reply.text.lines().any(|found| found == line),
            "{line}: {}",
            reply.text
        );
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let fixture = Fixture::saying("x");
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ] {
        let reply = fixture.get(path).await;
        assert_eq!(reply.status, 200);
        assert!(
            reply.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with(kind)
        );
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"));
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        for elsewhere in ["http://", "https://", "//cdn"] {
            assert!(!reply.text.contains(elsewhere), "{path}");
        }
    }
}

fn properties(document: &Value, schema: &str) -> BTreeSet<String> {
    let properties = &document["components"]["schemas"][schema]["properties"];
    let properties = properties
        .as_object()
        .unwrap_or_else(|| panic!("{schema}: {document}"));
    properties.keys().cloned().collect()
}

#[tokio::test]
async fn what_is_described_is_what_is_taken() {
    let fixture = Fixture::saying("x");
    let document = fixture.get("/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let operations = document["paths"].as_object().unwrap().values();
    for operation in operations.flat_map(|path| path.as_object().unwrap().values()) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let description = response["description"].as_str();
            assert!(
                description.is_some_and(|d| !d.is_empty()),
                "{operation}: {status}"
            );
        }
    }
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    for (path, schema) in [
        ("/v1/chat/completions", "ChatParameters"),
        ("/v1/completions", "CompletionParameters"),
        ("/tokenize", "TokenizeParameters"),
        ("/detokenize", "DetokenizeParameters"),
    ] {
        let described = properties(&document, schema);
        for name in &described {
            // A value that no parameter has: what is unknown is refused as that.
            let other = json!({ name.as_str(): { "nobody": "has this" } });
            let error = fixture.post(path, other.to_string()).await.json()["error"].clone();
            let is_unknown = error["code"] == "unknown_parameter" && error["param"] == **name;
            assert!(!is_unknown, "{path}: {error}");
        }
        assert!(described.contains("model"));
    }
}
