//! What is asked of the engine, and what becomes of its tokens.

mod common;

use common::{EOS, Fixture, PAGE, Script, TOOL_CALLS, streamed};
use quest_burn_serve::Policy;
use serde_json::{Value, json};

#[tokio::test]
async fn a_conversation_is_answered() {
    let fixture = Fixture::saying("Hello there");
    let answer = fixture.chat(json!({ "model": "org/bytes" })).await.ok();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "org/bytes");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_600_000_000);
    let choice = &answer["choices"][0];
    let message = json!({ "role": "assistant", "content": "Hello there", "refusal": null });
    assert_eq!(choice["message"], message);
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["logprobs"], Value::Null);
    let prompt = fixture.asked().ids.len();
    let usage = json!({
        "prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12,
        "prompt_tokens_details": { "cached_tokens": 3 },
    });
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn a_prompt_is_continued() {
    let fixture = Fixture::saying("a long answer that goes on");
    let answer = fixture.complete(json!({ "max_tokens": 6 })).await.ok();
    assert_eq!(answer["object"], "text_completion");
    let choice =
        json!({ "index": 0, "text": "a long", "logprobs": null, "finish_reason": "length" });
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(fixture.asked().ids, [258, 104, 105]);
    assert_eq!(fixture.asked().stop_ids, [EOS]);
}

#[tokio::test]
async fn completions_have_16_tokens_unless_told_otherwise_and_conversations_what_there_is_room_for()
{
    let fixture = Fixture::saying("hi");
    fixture
        .post("/v1/completions", r#"{"prompt": "a"}"#)
        .await
        .ok();
    assert_eq!(fixture.asked().max_new_tokens, 16);
    fixture.chat(json!({})).await.ok();
    assert_eq!(
        fixture.asked().max_new_tokens,
        common::CONTEXT - fixture.asked().ids.len()
    );
    fixture.chat(json!({ "max_tokens": 7 })).await.ok();
    assert_eq!(fixture.asked().max_new_tokens, 7);
    fixture
        .chat(json!({ "max_completion_tokens": 8 }))
        .await
        .ok();
    assert_eq!(fixture.asked().max_new_tokens, 8);
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_whole_answer() {
    let fixture = Fixture::saying("Grüße aus 東京 🌍!");
    let whole = fixture.chat(json!({})).await.ok();
    let chunks = fixture.chat(json!({ "stream": true })).await.chunks();
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    assert_eq!(
        streamed(&chunks, 0),
        whole["choices"][0]["message"]["content"]
    );
    let last = &chunks.last().unwrap()["choices"][0];
    assert_eq!(
        (&last["delta"], &last["finish_reason"]),
        (&json!({}), &json!("stop"))
    );
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let id = &chunks[0]["id"];
    assert!(chunks.iter().all(|chunk| chunk["id"] == *id));

    let chunks = fixture.complete(json!({ "stream": true })).await.chunks();
    assert_eq!(streamed(&chunks, 0), "Grüße aus 東京 🌍!");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
}

#[tokio::test]
async fn a_stream_ends_with_its_usage_where_that_is_asked_for() {
    for path in ["chat", "complete"] {
        let fixture = Fixture::saying("Hello");
        let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let reply = match path {
            "chat" => fixture.chat(options).await,
            _ => fixture.complete(options).await,
        };
        let chunks = reply.chunks();
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], 6);
        assert!(others.iter().all(|chunk| chunk["usage"].is_null()));
        assert!(others.iter().all(|chunk| chunk.get("usage").is_some()));
    }
}

#[tokio::test]
async fn stop_texts_end_an_answer_and_are_not_part_of_it() {
    let fixture = Fixture::saying("one\ntwo\nthree");
    for (stop, text, reason) in [
        (json!("two"), "one\n", "stop"),
        (json!(["three", "\ntw"]), "one", "stop"),
        (json!(["four"]), "one\ntwo\nthree", "stop"),
        (json!("one"), "", "stop"),
        (Value::Null, "one\ntwo\nthree", "stop"),
    ] {
        let answer = fixture.chat(json!({ "stop": stop })).await.ok();
        assert_eq!(answer["choices"][0]["message"]["content"], text);
        assert_eq!(answer["choices"][0]["finish_reason"], reason);
        let reply = fixture.chat(json!({ "stop": stop, "stream": true })).await;
        assert_eq!(streamed(&reply.chunks(), 0), text);
    }
    // The beginning of a stop text that never came is not lost.
    let answer = fixture
        .complete(json!({ "stop": "two!", "max_tokens": 6 }))
        .await
        .ok();
    assert_eq!(answer["choices"][0]["text"], "one\ntw");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn several_answers_come_with_seeds_of_their_own() {
    let fixture = Fixture::saying("Hi");
    let answer = fixture
        .chat(json!({ "n": 3, "seed": 7, "temperature": 1 }))
        .await
        .ok();
    let choices = answer["choices"].as_array().unwrap();
    let indices = choices
        .iter()
        .map(|choice| choice["index"].as_u64().unwrap());
    assert_eq!(indices.collect::<Vec<_>>(), [0, 1, 2]);
    let requests = fixture.script.requests.lock().unwrap().clone();
    let seeds = requests.iter().map(|request| request.sampling.seed);
    assert_eq!(seeds.collect::<Vec<_>>(), [7, 8, 9]);
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 9);
    assert_eq!(usage["prompt_tokens"], requests[0].ids.len());

    let chunks = fixture
        .chat(json!({ "n": 2, "stream": true }))
        .await
        .chunks();
    assert_eq!([0, 1].map(|index| streamed(&chunks, index)), ["Hi", "Hi"]);
}

#[tokio::test]
async fn prompts_may_be_several_and_ids() {
    let fixture = Fixture::saying("!");
    let answer = fixture
        .complete(json!({ "prompt": ["a", "b"], "n": 2 }))
        .await
        .ok();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    assert_eq!(answer["choices"][3]["index"], 3);
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    fixture.complete(json!({ "prompt": [97, 98] })).await.ok();
    assert_eq!(fixture.asked().ids, [97, 98]);
    fixture
        .complete(json!({ "prompt": [[97], [98, 99]] }))
        .await
        .ok();
    assert_eq!(fixture.asked().ids, [98, 99]);
}

#[tokio::test]
async fn what_samples_reaches_the_engine() {
    let fixture = Fixture::saying("x");
    let parameters = json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": { "98": -100, "97": 2.5 },
        "seed": -1,
    });
    fixture.chat(parameters).await.ok();
    let sampling = fixture.asked().sampling;
    assert_eq!(sampling.temperature, Some(0.5));
    assert_eq!(sampling.top_p, Some(0.9));
    assert_eq!(sampling.top_k, Some(40));
    assert_eq!(sampling.min_p, Some(0.1));
    assert_eq!(sampling.repetition_penalty, Some(1.1));
    assert_eq!(
        (sampling.presence_penalty, sampling.frequency_penalty),
        (1.0, -1.0)
    );
    assert_eq!(sampling.bias, [(97, 2.5), (98, -100.0)]);
    assert_eq!(sampling.seed, u64::MAX);
    fixture.chat(json!({ "top_k": -1 })).await.ok();
    assert_eq!(fixture.asked().sampling.top_k, Some(0));
    let seed = fixture.asked().sampling.seed;
    fixture.chat(json!({})).await.ok();
    assert_ne!(
        fixture.asked().sampling.seed,
        seed,
        "a seed that is not given is a new one"
    );
}

#[tokio::test]
async fn a_request_chooses_what_is_read() {
    let fixture = Fixture::saying("x");
    for (quest, policy) in [
        (json!(null), Policy::Default),
        (json!({}), Policy::Default),
        (json!({ "policy": "dense" }), Policy::Dense),
        (
            json!({ "policy": "quest" }),
            Policy::Quest { token_budget: None },
        ),
        (
            json!({ "token_budget": 64 }),
            Policy::Quest {
                token_budget: Some(64),
            },
        ),
    ] {
        fixture.chat(json!({ "quest": quest })).await.ok();
        assert_eq!(fixture.asked().policy, policy);
    }
}

#[tokio::test]
async fn log_probabilities_come_with_tokens() {
    let fixture = Fixture::saying("ab");
    let answer = fixture
        .chat(json!({ "logprobs": true, "top_logprobs": 2 }))
        .await
        .ok();
    let content = &answer["choices"][0]["logprobs"]["content"];
    let expected = json!({
        "token": "a", "logprob": -0.5, "bytes": [97],
        "top_logprobs": [
            { "token": "a", "logprob": -1.0, "bytes": [97] },
            { "token": "b", "logprob": -2.0, "bytes": [98] },
        ],
    });
    assert_eq!(content[0], expected);
    assert_eq!(
        content.as_array().unwrap().len(),
        2,
        "the stop token is no part of the answer"
    );

    let answer = fixture.complete(json!({ "logprobs": 1 })).await.ok();
    let expected = json!({
        "tokens": ["a", "b"], "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{ "a": -1.0 }, { "a": -1.0 }], "text_offset": [0, 1],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);

    let chunks = fixture
        .chat(json!({ "logprobs": true, "stream": true }))
        .await
        .chunks();
    let tokens = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"][0]["token"].as_str());
    assert_eq!(tokens.collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn log_probabilities_end_where_the_text_does() {
    let fixture = Fixture::saying("abSTOPcd");
    for stream in [false, true] {
        let parameters = json!({ "logprobs": true, "stop": "STOP", "stream": stream });
        let reply = fixture.chat(parameters).await;
        let tokens = match stream {
            false => vec![reply.ok()],
            true => reply.chunks(),
        };
        let tokens = tokens.iter().flat_map(|part| {
            let tokens = part["choices"][0]["logprobs"]["content"]
                .as_array()
                .cloned();
            tokens.unwrap_or_default()
        });
        let tokens = tokens.map(|token| token["token"].as_str().unwrap().to_owned());
        assert_eq!(tokens.collect::<String>(), "ab");
    }
}

#[tokio::test]
async fn calls_of_tools_are_parsed() {
    let tools = json!([{ "type": "function", "function": {
        "name": "weather", "description": "of a town",
        "parameters": { "type": "object", "properties": { "town": { "type": "string" } } },
    } }]);
    let text = "I look.<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"town\": \"Ulm\"}}\n</tool_call>";
    let fixture = Fixture::saying(text);
    let answer = fixture.chat(json!({ "tools": tools })).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "I look.");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert_eq!(call["id"].as_str().unwrap().len(), 9);
    let function = json!({ "name": "weather", "arguments": "{\"town\":\"Ulm\"}" });
    assert_eq!(call["function"], function);

    let chunks = fixture
        .chat(json!({ "tools": tools, "stream": true }))
        .await
        .chunks();
    assert_eq!(streamed(&chunks, 0), "I look.");
    let calls = chunks
        .iter()
        .find_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array());
    assert_eq!(calls.unwrap()[0]["function"], function);
    assert_eq!(calls.unwrap()[0]["index"], 0);
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );

    let answer = fixture
        .chat(json!({ "tools": tools, "tool_choice": "none" }))
        .await
        .ok();
    assert_eq!(answer["choices"][0]["message"]["content"], text);

    // A token that decoding leaves out.
    let call = r#" [{"name": "weather", "arguments": {}}]"#.bytes().map(u32::from);
    let fixture = Fixture::new(Script::of([TOOL_CALLS].into_iter().chain(call).collect()));
    let answer = fixture.chat(json!({ "tools": tools })).await.ok();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["tool_calls"][0]["function"]["name"], "weather");
    assert_eq!(message["content"], Value::Null);
}

#[tokio::test]
async fn a_watched_stream_says_what_was_read() {
    let fixture = Fixture::saying("yes");
    let chunks = fixture
        .chat(json!({ "stream": true, "quest": { "watch": true } }))
        .await
        .chunks();
    let context = &chunks[0]["quest"]["context"];
    let ids = fixture.asked().ids;
    assert_eq!(context["page_size"], PAGE);
    assert_eq!(context["layers"], 2);
    assert_eq!(context["prompt_tokens"], ids.len());
    let pages = context["pages"].as_array().unwrap();
    assert_eq!(pages.len(), ids.len().div_ceil(PAGE));
    let text = pages
        .iter()
        .map(|page| page.as_str().unwrap())
        .collect::<String>();
    assert_eq!(
        text.into_bytes(),
        ids.iter().map(|id| *id as u8).collect::<Vec<_>>()
    );
    let reads = chunks
        .iter()
        .filter(|chunk| chunk["quest"]["reads"].is_array());
    assert_eq!(
        reads.count(),
        4,
        "three characters and the token that stops"
    );
    assert_eq!(
        chunks[1]["quest"]["reads"],
        json!([{ "layer": 1, "pages": [0, 2] }])
    );
}

#[tokio::test]
async fn a_template_gets_its_variables() {
    let fixture = Fixture::saying("x");
    fixture
        .chat(json!({ "chat_template_kwargs": { "think": false } }))
        .await
        .ok();
    let text = fixture
        .asked()
        .ids
        .iter()
        .map(|id| *id as u8)
        .collect::<Vec<_>>();
    assert!(String::from_utf8(text).unwrap().ends_with("think=false"));
}

#[tokio::test]
async fn stop_tokens_can_be_passed_over() {
    let fixture = Fixture::new(Script::of(vec![97, EOS, 98]));
    let answer = fixture.complete(json!({ "ignore_eos": true })).await.ok();
    assert_eq!(answer["choices"][0]["text"], "ab");
    let answer = fixture.complete(json!({})).await.ok();
    assert_eq!(answer["choices"][0]["text"], "a");
}
