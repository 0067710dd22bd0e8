//! What is refused, and how.

mod common;

use axum::{body::Body, http::Request};
use common::{Fixture, Script};
use quest_burn_serve::{ServerConfig, SubmitError};
use serde_json::{Value, json};

/// The error of a conversation with these parameters names this one.
async fn refused(fixture: &Fixture, parameters: Value, param: &str) -> Value {
    let text = parameters.to_string();
    let reply = fixture.chat(parameters).await;
    assert_eq!(reply.status, 400, "{text}: {}", reply.text);
    let error = reply.error(400);
    assert_eq!(error["param"], param, "{text}: {error}");
    assert_eq!(error["type"], "invalid_request_error");
    error
}

#[tokio::test]
async fn a_value_that_cannot_be_is_refused_with_its_parameter() {
    let fixture = Fixture::saying("x");
    for (parameters, param) in [
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": null }), "messages"),
        (json!({ "messages": "hi" }), "messages"),
        (
            json!({ "messages": [{ "role": "user", "content": "refuse" }] }),
            "messages",
        ),
        (json!({ "temperature": -0.1 }), "temperature"),
        (json!({ "temperature": 2.1 }), "temperature"),
        (json!({ "temperature": "0" }), "temperature"),
        (json!({ "top_p": 0 }), "top_p"),
        (json!({ "top_p": 1.5 }), "top_p"),
        (json!({ "top_k": -2 }), "top_k"),
        (json!({ "top_k": 1.5 }), "top_k"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "presence_penalty": 3 }), "presence_penalty"),
        (json!({ "frequency_penalty": -3 }), "frequency_penalty"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "repetition_penalty": 101 }), "repetition_penalty"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": -1 }), "max_tokens"),
        (json!({ "max_tokens": 5000 }), "max_tokens"),
        (
            json!({ "max_completion_tokens": 5000 }),
            "max_completion_tokens",
        ),
        (
            json!({ "max_tokens": 1, "max_completion_tokens": 2 }),
            "max_tokens",
        ),
        (json!({ "n": 0 }), "n"),
        (json!({ "n": 17 }), "n"),
        (json!({ "seed": "1" }), "seed"),
        (json!({ "stop": "" }), "stop"),
        (json!({ "stop": [1] }), "stop[0]"),
        (json!({ "stop": vec!["a"; 17] }), "stop"),
        (json!({ "stream": "yes" }), "stream"),
        (
            json!({ "stream_options": { "include_usage": true } }),
            "stream_options",
        ),
        (
            json!({ "stream": true, "stream_options": { "usage": true } }),
            "stream_options.usage",
        ),
        (json!({ "logprobs": 2 }), "logprobs"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (
            json!({ "logprobs": true, "top_logprobs": 21 }),
            "top_logprobs",
        ),
        (json!({ "logit_bias": { "300": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "a": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "1": 101 } }), "logit_bias.1"),
        (json!({ "quest": 1 }), "quest"),
        (
            json!({ "quest": { "token_budget": 0 } }),
            "quest.token_budget",
        ),
        (json!({ "quest": { "policy": "lru" } }), "quest.policy"),
        (
            json!({ "quest": { "policy": "dense", "token_budget": 9 } }),
            "quest.token_budget",
        ),
        (json!({ "quest": { "pages": 9 } }), "quest.pages"),
        (json!({ "quest": { "watch": true } }), "quest.watch"),
        (
            json!({ "tools": [{ "type": "function" }] }),
            "tools[0].function",
        ),
        (
            json!({ "tools": [{ "type": "retrieval" }] }),
            "tools[0].type",
        ),
        (json!({ "tool_choice": "auto" }), "tool_choice"),
        (
            json!({ "chat_template_kwargs": [] }),
            "chat_template_kwargs",
        ),
    ] {
        let error = refused(&fixture, parameters, param).await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(param), "{message}");
    }
    assert!(
        fixture.script.requests.lock().unwrap().is_empty(),
        "nothing was asked of the engine"
    );
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_its_name() {
    let fixture = Fixture::saying("x");
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    for (parameters, param) in [
        (json!({ "store": true }), "store"),
        (json!({ "metadata": { "a": "b" } }), "metadata"),
        (json!({ "service_tier": "flex" }), "service_tier"),
        (json!({ "modalities": ["text", "audio"] }), "modalities"),
        (json!({ "audio": {} }), "audio"),
        (json!({ "prediction": {} }), "prediction"),
        (json!({ "reasoning_effort": "high" }), "reasoning_effort"),
        (json!({ "functions": [{}] }), "functions"),
        (json!({ "function_call": "auto" }), "function_call"),
        (json!({ "web_search_options": {} }), "web_search_options"),
        (json!({ "verbosity": "low" }), "verbosity"),
        (json!({ "prompt_cache_key": "a" }), "prompt_cache_key"),
        (json!({ "safety_identifier": "a" }), "safety_identifier"),
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "min_tokens": 2 }), "min_tokens"),
        (
            json!({ "tools": [tool], "response_format": { "type": "json_object" } }),
            "response_format",
        ),
        (
            json!({ "tools": [tool], "tool_choice": "required", "guided_regex": "a" }),
            "guided_regex",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url",
                "image_url": { "url": "data:" } }] }] }),
            "messages[0].content[0].type",
        ),
    ] {
        let error = refused(&fixture, parameters, param).await;
        assert_eq!(error["code"], "unsupported_parameter");
    }
    for name in ["temprature", "guided_whitespace_pattern", "prompt", "echo"] {
        let error = refused(&fixture, json!({ name: 1 }), name).await;
        assert_eq!(error["code"], "unknown_parameter");
    }
    let reply = fixture.complete(json!({ "echo": true })).await;
    assert_eq!(reply.error(400)["param"], "echo");
    let reply = fixture.complete(json!({ "suffix": "end" })).await;
    assert_eq!(reply.error(400)["param"], "suffix");
    let reply = fixture.complete(json!({ "messages": [] })).await;
    assert_eq!(reply.error(400)["param"], "messages");
}

#[tokio::test]
async fn defaults_that_clients_send_are_taken() {
    let fixture = Fixture::saying("x");
    let parameters = json!({
        "model": null, "store": false, "metadata": null, "service_tier": "auto", "logit_bias": {},
        "response_format": { "type": "text" }, "modalities": ["text"], "n": 1, "stop": null,
        "audio": null, "functions": null, "function_call": null, "parallel_tool_calls": true,
        "tool_choice": "none", "tools": null, "user": "somebody", "top_p": 1.0, "logprobs": false,
        "top_logprobs": 0, "stream_options": null, "presence_penalty": 0.0, "seed": null,
    });
    fixture.chat(parameters).await.ok();
    let parameters = json!({ "echo": false, "best_of": 1, "suffix": null, "logprobs": null });
    fixture.complete(parameters).await.ok();
}

#[tokio::test]
async fn prompts_that_make_no_sense_are_refused() {
    let fixture = Fixture::saying("x");
    for (prompt, param) in [
        (json!(null), "prompt"),
        (json!([]), "prompt"),
        (json!({}), "prompt"),
        (json!([[]]), "prompt"),
        (json!([97, "a"]), "prompt[1]"),
        (json!([97, -1]), "prompt[1]"),
        (json!([300]), "prompt[0]"),
        (json!(["a", 1]), "prompt[1]"),
        (json!([[97], [1.5]]), "prompt[1][0]"),
        (json!(vec!["a"; 17]), "prompt"),
        (json!("a".repeat(1000)), "prompt"),
    ] {
        let reply = fixture.complete(json!({ "prompt": prompt })).await;
        assert_eq!(reply.error(400)["param"], param, "{prompt}");
    }
}

#[tokio::test]
async fn a_prompt_and_an_answer_have_to_fit_the_context() {
    let fixture = Fixture::saying("x");
    let reply = fixture
        .complete(json!({ "prompt": "a".repeat(999), "max_tokens": 1 }))
        .await;
    let error = reply.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(
        error["message"],
        "prompt: expected at most 999 tokens, found 1000"
    );
    let reply = fixture
        .complete(json!({ "prompt": "a".repeat(899), "max_tokens": 101 }))
        .await;
    let error = reply.error(400);
    let message =
        "max_tokens: expected at most 100 beside a prompt of 900 in a context of 1000, found 101";
    assert_eq!(
        (&error["param"], &error["message"]),
        (&json!("max_tokens"), &json!(message))
    );
    fixture
        .complete(json!({ "prompt": "a".repeat(899), "max_tokens": 100 }))
        .await
        .ok();
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let fixture = Fixture::saying("x");
    for body in ["", "{", "[]", "1", "{\"messages\": ", "\u{0}", "{}{}"] {
        let error = fixture.post("/v1/chat/completions", body).await.error(400);
        assert!(
            error["message"].as_str().unwrap().contains("JSON") || body == "{}",
            "{error}"
        );
    }
    let error = fixture
        .post("/v1/chat/completions", vec![0xff, 0xfe])
        .await
        .error(400);
    assert_eq!(error["code"], "invalid_json");
    let deep = "[".repeat(100_000);
    fixture
        .post("/v1/completions", format!("{{\"prompt\": {deep}"))
        .await
        .error(400);
}

#[tokio::test]
async fn a_key_that_is_there_twice_is_refused_by_its_name() {
    let fixture = Fixture::saying("x");
    let schema = r#""{\"type\": \"object\", \"type\": \"string\"}""#;
    for (body, key) in [
        (r#"{"prompt": "a", "n": 1, "n": 2}"#.to_owned(), "n"),
        (
            r#"{"prompt": "a", "quest": {"watch": true, "watch": true}}"#.to_owned(),
            "watch",
        ),
        (
            format!(r#"{{"prompt": "a", "guided_json": {schema}}}"#),
            "type",
        ),
    ] {
        let error = fixture.post("/v1/completions", body).await.error(400);
        let problem = format!("expected each key once, found \"{key}\" again");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&problem), "{message}");
    }
}

#[tokio::test]
async fn only_json_is_taken() {
    let fixture = Fixture::saying("x");
    let body = r#"{"prompt": "a"}"#;
    for kind in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let mut request = Request::post("/v1/completions");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let reply = fixture.send(request.body(Body::from(body)).unwrap()).await;
        let error = reply.error(415);
        assert_eq!(error["code"], "unsupported_media_type");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("application/json")
        );
    }
    let request = Request::post("/v1/completions");
    let request = request.header("content-type", "Application/JSON; charset=utf-8");
    fixture
        .send(request.body(Body::from(body)).unwrap())
        .await
        .ok();
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let fixture = Fixture::saying("x");
    for reply in [
        fixture.chat(json!({ "model": "gpt-4" })).await,
        fixture.complete(json!({ "model": "gpt-4" })).await,
        fixture
            .post("/tokenize", r#"{"model": "gpt-4", "prompt": "a"}"#)
            .await,
        fixture.get("/v1/models/gpt-4").await,
    ] {
        let error = reply.error(404);
        assert_eq!(error["code"], "model_not_found");
        assert_eq!(
            error["message"],
            "model: expected org/bytes, alias, found \"gpt-4\""
        );
    }
    fixture.chat(json!({ "model": "alias" })).await.ok();
}

#[tokio::test]
async fn unknown_paths_and_methods_are_errors_of_the_same_form() {
    let fixture = Fixture::saying("x");
    fixture.get("/v1/embeddings").await.error(404);
    let error = fixture.get("/v1/chat/completions").await.error(405);
    assert_eq!(error["code"], "method_not_allowed");
    fixture.post("/v1/models", "{}").await.error(405);
    fixture.post("/health", "{}").await.error(405);
}

#[tokio::test]
async fn what_the_engine_refuses_is_told() {
    let fixture = Fixture::saying("x");
    let refuse = |error| *fixture.script.refuses.lock().unwrap() = Some(error);
    refuse(SubmitError::Invalid {
        param: Some("max_tokens"),
        message: "KV cache: too small".into(),
    });
    assert_eq!(
        fixture.chat(json!({})).await.error(400)["param"],
        "max_tokens"
    );
    let param = fixture
        .chat(json!({ "guided_regex": "(" }))
        .await
        .error(400)["param"]
        .clone();
    assert_eq!(param, "guided_regex");
    refuse(SubmitError::ShuttingDown);
    let reply = fixture.chat(json!({})).await;
    assert_eq!(reply.error(503)["code"], "shutting_down");
    assert!(reply.headers.contains_key("retry-after"));
    refuse(SubmitError::Failed("the device is gone".into()));
    assert_eq!(
        fixture.chat(json!({})).await.error(500)["type"],
        "server_error"
    );
}

#[tokio::test]
async fn an_answer_that_fails_is_an_error_and_no_short_answer() {
    let mut script = Script::saying("half an");
    script.fails = true;
    let fixture = Fixture::new(script);
    fixture.complete(json!({})).await.error(500);
    let reply = fixture.complete(json!({ "stream": true })).await;
    assert!(
        reply
            .text
            .contains(r#"data: {"error":{"message":"the device is gone""#)
    );
    assert!(!reply.text.contains("[DONE]"));
    assert_eq!(fixture.get("/health").await.status, 503);
}

#[tokio::test]
async fn a_grammar_that_fails_is_the_request_s_fault() {
    let mut script = Script::saying("{");
    script.grammar_fails = true;
    let fixture = Fixture::new(script);
    let error = fixture
        .complete(json!({ "guided_regex": "a" }))
        .await
        .error(400);
    assert_eq!(error["param"], "guided_regex");
    assert_eq!(error["message"], "guided_regex: too complex");
}

#[tokio::test]
async fn who_has_no_key_stays_out() {
    let config = ServerConfig {
        api_keys: vec!["secret".into(), "other".into()],
        ..ServerConfig::default()
    };
    let fixture = Fixture::with(Script::saying("x"), config, true);
    let ask = |path: &str, key: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(key) = key {
            request = request.header("authorization", key);
        }
        fixture.send(request.body(Body::empty()).unwrap())
    };
    for key in [
        None,
        Some("secret"),
        Some("Bearer secre"),
        Some("Bearer "),
        Some("Basic secret"),
    ] {
        for path in [
            "/v1/models",
            "/metrics",
            "/tokenize",
            "/v1/completions",
            "/nowhere",
        ] {
            let reply = ask(path, key).await;
            let error = reply.error(401);
            assert_eq!(error["code"], "invalid_api_key");
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
            assert!(!reply.text.contains("secret"), "no key is told");
        }
    }
    for key in ["Bearer secret", "bearer other"] {
        ask("/v1/models", Some(key)).await.ok();
    }
    for path in ["/", "/health", "/page.js", "/page.css", "/openapi.json"] {
        assert_eq!(ask(path, None).await.status, 200);
    }
}

#[tokio::test]
async fn a_model_without_a_chat_template_completes_only() {
    let fixture = Fixture::with(Script::saying("x"), ServerConfig::default(), false);
    let error = fixture.chat(json!({})).await.error(400);
    assert_eq!(error["code"], "no_chat_template");
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    assert_eq!(
        fixture.chat(json!({ "tools": tools })).await.error(400)["param"],
        "tools"
    );
    fixture.complete(json!({})).await.ok();
}
