//! What one server answers, from its first request to its end.

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Server, quest};

const QUESTION: &str = "The code of the old lamp is 407. The code of the red door is 93. What is the code of \
                        the old lamp? The code of the old lamp is";

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
    models_are_listed(&server);
    let answer = answers_are_those_of_generate(&server);
    tokens_go_there_and_back(&server, &answer);
    an_empty_prompt_is_continued_as_generate_does(&server);
    draws_with_a_seed_are_the_same(&server);
    greedy_tokens_are_the_most_probable(&server, answer["choices"][0]["text"].as_str().unwrap());
    a_watched_stream_shows_what_it_reads(&server);
    what_is_wrong_is_told(&server);
    an_answer_follows_its_grammar(&server);
    special_tokens_are_text_unless_asked_for(&server);
    whoever_goes_away_frees_its_pages(&server);
    a_running_answer_comes_to_its_end(server);
}

/// The greedy answer of a few tokens.
fn asked() -> Value {
    json!({ "model": "passkey", "prompt": QUESTION, "max_tokens": 4, "temperature": 0 })
}

fn streamed(reply: &str) -> String {
    let chunks = reply
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    let chunks = chunks.map(|chunk| serde_json::from_str::<Value>(&format!("{{{chunk}")).unwrap());
    let texts = chunks.filter_map(|chunk| Some(chunk["choices"][0]["text"].as_str()?.to_owned()));
    texts.collect()
}

fn models_are_listed(server: &Server) {
    let (status, body) = server.ask("/v1/models", None);
    let models = serde_json::from_str::<Value>(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(models["data"][0]["id"], "quest-passkey");
    assert_eq!(models["data"][1]["id"], "passkey");
}

/// The same as `quest generate`, however it is asked. Returns the answer.
fn answers_are_those_of_generate(server: &Server) -> Value {
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
    let answer = server.json("/v1/completions", &asked());
    assert_eq!(answer["choices"][0]["text"], text);
    let mut stream = asked();
    stream["stream"] = true.into();
    let (_, reply) = server.ask("/v1/completions", Some(&stream));
    assert_eq!(streamed(&reply), text);
    assert!(reply.contains("data: [DONE]"));
    answer
}

fn tokens_go_there_and_back(server: &Server, answer: &Value) {
    let tokens = server.json("/tokenize", &json!({ "prompt": QUESTION }));
    assert_eq!(tokens["count"], answer["usage"]["prompt_tokens"]);
    let mut by_ids = asked();
    by_ids["prompt"] = tokens["tokens"].clone();
    assert_eq!(
        server.json("/v1/completions", &by_ids)["choices"],
        answer["choices"]
    );
    // As vLLM has it, special tokens are part of the text.
    let back = server.json("/detokenize", &json!({ "tokens": tokens["tokens"] }));
    assert_eq!(back["prompt"], format!("<s>{QUESTION}"));
}

fn draws_with_a_seed_are_the_same(server: &Server) {
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
}

fn greedy_tokens_are_the_most_probable(server: &Server, text: &str) {
    let mut scored = asked();
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
}

/// What comes behind the token that texts begin with.
fn an_empty_prompt_is_continued_as_generate_does(server: &Server) {
    let args = ["--prompt", "", "--max-new-tokens", "4", "--policy", "dense"];
    let args = [&["generate", "--device", "flex", "--json"], &args[..]].concat();
    let generated = quest(&args).output().unwrap();
    let generated = serde_json::from_slice::<Value>(&generated.stdout).unwrap();
    assert_eq!(generated["prompt_tokens"], 1);
    let mut empty = asked();
    empty["prompt"] = "".into();
    let answer = server.json("/v1/completions", &empty);
    assert_eq!(answer["usage"]["prompt_tokens"], 1);
    assert_eq!(answer["choices"][0]["text"], generated["text"]);
    let (status, body) = server.ask("/v1/completions", Some(&json!({ "prompt": [[]] })));
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("\"param\":\"prompt\""), "{body}");
}

/// What it read lies on the pages of the prompt.
fn a_watched_stream_shows_what_it_reads(server: &Server) {
    let mut watched = asked();
    watched["stream"] = true.into();
    watched["quest"] = json!({ "watch": true, "token_budget": 16 });
    let (_, reply) = server.ask("/v1/completions", Some(&watched));
    assert!(reply.contains("\"page_size\":16"), "{reply}");
    assert!(reply.contains("\"reads\":[{\"layer\":0"), "{reply}");
}

/// So is it of a model without a chat template.
fn what_is_wrong_is_told(server: &Server) {
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
}

/// Whatever the model would say. A grammar that makes no sense is refused.
fn an_answer_follows_its_grammar(server: &Server) {
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
    let schema = json!({ "type": "string", "nullable": true });
    for (bad, problem) in [
        (
            json!({ "guided_regex": "(" }),
            "guided_regex: regular expression: ",
        ),
        (
            json!({ "guided_json": schema }),
            "guided_json: JSON schema: #: expected keywords that are supported, found `nullable`",
        ),
    ] {
        let mut body = json!({ "prompt": "a" });
        body.as_object_mut()
            .unwrap()
            .extend(bad.as_object().unwrap().clone());
        let (status, body) = server.ask("/v1/completions", Some(&body));
        assert_eq!(status, 400);
        assert!(body.contains(problem), "{body}");
    }
}

fn special_tokens_are_text_unless_asked_for(server: &Server) {
    let count = |parse: bool| {
        let asked = json!({ "prompt": "a</s>", "parse_special": parse });
        server.json("/tokenize", &asked)["count"].as_u64().unwrap()
    };
    assert!(count(false) > count(true));
}

fn whoever_goes_away_frees_its_pages(server: &Server) {
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
}

/// Then the server ends.
fn a_running_answer_comes_to_its_end(server: Server) {
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
