//! What answers have to be, from the request to the engine.

mod common;

use common::{EOS, Fixture};
use quest_burn_serve::{CalledFunction, Calls, Grammar};
use serde_json::{Value, json};

fn schema() -> Value {
    json!({ "type": "object", "properties": { "town": { "type": "string" } }, "required": ["town"] })
}

fn tools(strict: bool) -> Value {
    let function = json!({ "name": "weather", "parameters": schema(), "strict": strict, "description": "of a town" });
    json!([
        { "type": "function", "function": function },
        { "type": "function", "function": { "name": "now" } },
    ])
}

#[tokio::test]
async fn a_format_reaches_the_engine_for_each_answer() {
    let fixture = Fixture::saying("{}");
    let format = json!({ "type": "json_schema", "json_schema": {
        "name": "place", "schema": schema(), "strict": true,
    } });
    let chat = fixture
        .chat(json!({ "response_format": format, "n": 3 }))
        .await;
    assert_eq!(chat.ok()["choices"][2]["message"]["content"], "{}");
    let expected = Some(Grammar::JsonSchema(schema()));
    assert_eq!(fixture.asked_grammar(), expected);
    let requests = fixture.script.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 3);
    assert!(
        requests
            .iter()
            .all(|asked| asked.grammar == requests[0].grammar),
        "it is compiled once"
    );

    for (parameters, grammar) in [
        (
            json!({ "response_format": { "type": "json_object" } }),
            Some(Grammar::JsonObject),
        ),
        (json!({ "response_format": { "type": "text" } }), None),
        (
            json!({ "structured_outputs": { "choice": ["yes", "no"] } }),
            Some(Grammar::Choice(vec!["yes".into(), "no".into()])),
        ),
    ] {
        fixture.complete(parameters.clone()).await.ok();
        assert_eq!(fixture.asked_grammar(), grammar, "{parameters}");
        fixture.chat(parameters.clone()).await.ok();
        assert_eq!(fixture.asked_grammar(), grammar, "{parameters}");
    }
}

#[tokio::test]
async fn calls_that_are_forced_have_a_grammar() {
    let call = r#"<tool_call>{"name": "weather", "arguments": {"town": "Ulm"}}</tool_call>"#;
    let fixture = Fixture::saying(call);
    let named = json!({ "type": "function", "function": { "name": "weather" } });
    let weather = |parameters| CalledFunction {
        name: "weather".into(),
        parameters,
    };
    let now = CalledFunction {
        name: "now".into(),
        parameters: None,
    };
    for (parameters, functions, allows_text, allows_several) in [
        (
            json!({ "tools": tools(false), "tool_choice": named }),
            vec![weather(Some(schema()))],
            false,
            false,
        ),
        (
            json!({ "tools": tools(false), "tool_choice": "required" }),
            vec![weather(Some(schema())), now.clone()],
            false,
            true,
        ),
        (
            json!({ "tools": tools(true) }),
            vec![weather(Some(schema())), now.clone()],
            true,
            true,
        ),
        (
            json!({ "tools": tools(false), "parallel_tool_calls": false }),
            vec![weather(None), now.clone()],
            true,
            false,
        ),
    ] {
        let answer = fixture.chat(parameters.clone()).await.ok();
        let calls = Calls {
            functions,
            allows_text,
            allows_several,
        };
        assert_eq!(
            fixture.asked_grammar(),
            Some(Grammar::Calls(calls)),
            "{parameters}"
        );
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["tool_calls"][0]["function"]["name"], "weather");
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    }
    for free in [
        json!({ "tools": tools(false) }),
        json!({ "tools": tools(true), "tool_choice": "none" }),
    ] {
        fixture.chat(free).await.ok();
        assert_eq!(fixture.asked_grammar(), None);
    }
}

#[tokio::test]
async fn special_tokens_in_a_prompt_are_text_unless_it_is_to_be_parsed() {
    let fixture = Fixture::saying("x");
    let asked = |parse: bool| json!({ "prompt": "a</s>", "parse_special": parse });
    fixture.complete(asked(false)).await.ok();
    assert!(!fixture.asked().ids.contains(&EOS));
    fixture.complete(asked(true)).await.ok();
    assert!(fixture.asked().ids.contains(&EOS));
    for (parse, count) in [(false, 6), (true, 3)] {
        let tokens = fixture.post("/tokenize", asked(parse).to_string()).await;
        assert_eq!(tokens.ok()["count"], count);
    }
}

#[tokio::test]
async fn variables_of_the_template_count_in_tokens_too() {
    let fixture = Fixture::saying("x");
    let body = json!({
        "messages": [{ "role": "user", "content": "a" }], "chat_template_kwargs": { "b": 1 },
    });
    let tokens = fixture.post("/tokenize", body.to_string()).await.ok();
    assert_eq!(tokens["count"], r#"<"user">"a"b=1"#.len());
}

#[tokio::test]
async fn special_tokens_are_part_of_a_text_of_tokens() {
    let fixture = Fixture::saying("x");
    let body = json!({ "tokens": [104, EOS, 105] });
    let text = fixture.post("/detokenize", body.to_string()).await.ok();
    assert_eq!(text["prompt"], "h</s>i");
}
