//! Bodies that nobody would send.

mod common;

use common::Fixture;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde_json::{Map, Value, json};

const BODIES: usize = 10_000;

/// Whatever a body is, the answer is one or says what is wrong with the request.
#[tokio::test]
async fn any_body_is_answered_or_refused() {
    let fixture = Fixture::saying("an answer");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(19);
    let mut taken = 0;
    for i in 0..BODIES {
        let (path, valid) = valid(&mut rng);
        let mut body = valid;
        for _ in 0..rng.random_range(0..4) {
            mutate(&mut body, &mut rng);
        }
        let mut bytes = body.to_string().into_bytes();
        if rng.random_bool(0.2) {
            spoil(&mut bytes, &mut rng);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let reply = fixture.post(path, bytes).await;
        let status = reply.status.as_u16();
        assert!(
            status == 200 || (400..500).contains(&status),
            "{i}: {status} {path} {text}"
        );
        match status {
            200 => taken += 1,
            _ => drop(reply.error(status)),
        }
    }
    assert!(
        (BODIES / 20..BODIES / 2).contains(&taken),
        "{taken} were taken"
    );
}

fn valid(rng: &mut impl RngExt) -> (&'static str, Value) {
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "How deep is the sea?" }] },
        { "role": "assistant", "content": null, "tool_calls": [{
            "id": "abcdefghi", "type": "function",
            "function": { "name": "depth", "arguments": "{\"of\": \"sea\"}" },
        }] },
        { "role": "tool", "content": "11 km", "tool_call_id": "abcdefghi" },
    ]);
    let tools = json!([{ "type": "function", "function": {
        "name": "depth", "description": "of a water",
        "parameters": { "type": "object", "properties": { "of": { "type": "string" } } },
    } }]);
    match rng.random_range(0..6) {
        0 | 1 => (
            "/v1/chat/completions",
            json!({
                "model": "org/bytes", "messages": messages, "tools": tools, "tool_choice": "auto",
                "max_completion_tokens": 20, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
                "seed": 3, "stop": ["\n", "END"], "n": 2, "logprobs": true, "top_logprobs": 3,
                "stream": true, "stream_options": { "include_usage": true }, "user": "me",
                "quest": { "policy": "quest", "token_budget": 64, "watch": true },
                "logit_bias": { "5": 1.5 }, "response_format": { "type": "text" }, "store": false,
            }),
        ),
        2 => (
            "/v1/completions",
            json!({
                "prompt": ["one", "two"], "max_tokens": 9, "logprobs": 2, "echo": false, "stop": "x",
                "presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1,
            }),
        ),
        3 => (
            "/tokenize",
            json!({
                "messages": messages, "add_generation_prompt": false,
                "chat_template_kwargs": { "enable_thinking": false },
            }),
        ),
        4 => constrained(rng, messages, tools),
        _ => ("/detokenize", json!({ "tokens": [1, 2, 3] })),
    }
}

/// Bodies that say what an answer has to be.
fn constrained(rng: &mut impl RngExt, messages: Value, tools: Value) -> (&'static str, Value) {
    let schema = json!({
        "type": "object", "properties": { "a": { "enum": [1, "b"] } }, "required": ["a"],
    });
    let named = json!({ "type": "function", "function": { "name": "depth" } });
    let (path, body) = match rng.random_range(0..6) {
        0 => (
            "/v1/chat/completions",
            json!({ "response_format": { "type": "json_schema", "json_schema": {
                "name": "a", "description": "b", "schema": schema, "strict": true,
            } } }),
        ),
        1 => (
            "/v1/completions",
            json!({ "response_format": { "type": "json_object" } }),
        ),
        2 => (
            "/v1/chat/completions",
            json!({ "tools": tools, "tool_choice": named, "parallel_tool_calls": false }),
        ),
        3 => (
            "/v1/chat/completions",
            json!({ "tools": tools, "tool_choice": "required" }),
        ),
        4 => (
            "/v1/completions",
            json!({ "structured_outputs": { "choice": ["yes", "no"] } }),
        ),
        _ => ("/v1/completions", json!({ "guided_regex": "[0-9]+" })),
    };
    let mut whole = match path {
        "/v1/completions" => json!({ "prompt": "one", "max_tokens": 5, "parse_special": true }),
        _ => json!({ "messages": messages, "max_tokens": 5 }),
    };
    let (Value::Object(whole_fields), Value::Object(fields)) = (&mut whole, body) else {
        unreachable!("both are objects");
    };
    whole_fields.extend(fields);
    (path, whole)
}

/// Something that may stand anywhere.
fn anything(rng: &mut impl RngExt) -> Value {
    match rng.random_range(0..16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(u64::MAX),
        5 => json!(i64::MIN),
        6 => json!(1e308),
        7 => json!(0.1),
        8 => json!(""),
        9 => json!("\u{0}\u{fffd}\u{1f30d}\"\\"),
        10 => json!("a".repeat(2000)),
        11 => json!([]),
        12 => json!({}),
        13 => json!([[[[]]], {}, null, "a", 1]),
        14 => json!({ "type": "function", "role": "user", "content": "x", "text": 1 }),
        _ => json!(rng.random_range(-300..300)),
    }
}

/// Changes a value somewhere in another one.
fn mutate(value: &mut Value, rng: &mut impl RngExt) {
    let goes_deeper = rng.random_bool(0.7);
    match value {
        Value::Object(fields) if !fields.is_empty() && goes_deeper => {
            let at = rng.random_range(0..fields.len());
            let (_, inner) = fields.iter_mut().nth(at).unwrap();
            mutate(inner, rng);
        }
        Value::Array(values) if !values.is_empty() && goes_deeper => {
            let at = rng.random_range(0..values.len());
            mutate(&mut values[at], rng);
        }
        Value::Object(fields) if rng.random_bool(0.8) => change(fields, rng),
        Value::Array(values) if rng.random_bool(0.5) => {
            let copies = values.clone();
            values.extend(copies);
        }
        _ => *value = anything(rng),
    }
}

fn change(fields: &mut Map<String, Value>, rng: &mut impl RngExt) {
    let names = fields.keys().cloned().collect::<Vec<_>>();
    if names.is_empty() || rng.random_bool(0.3) {
        const NAMES: [&str; 8] = [
            "model",
            "stop",
            "n",
            "prompt",
            "messages",
            "best_of",
            "x",
            "\u{1f30d}",
        ];
        let name = NAMES[rng.random_range(0..NAMES.len())];
        fields.insert(name.into(), anything(rng));
        return;
    }
    fields.remove(&names[rng.random_range(0..names.len())]);
}

/// Bytes that make no JSON, most likely.
fn spoil(bytes: &mut Vec<u8>, rng: &mut impl RngExt) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..3) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), rng.random()),
            _ if at < bytes.len() => bytes[at] = rng.random(),
            _ => (),
        }
    }
}
