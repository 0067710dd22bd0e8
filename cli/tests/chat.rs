//! `quest chat` with scripts on stdin, and `quest generate --chat`.

mod common;

use std::{
    io::Write,
    process::{Output, Stdio},
};

use common::Checkpoint;
use quest_burn_models::generation::MIN_CHUNK;
use serde_json::{Value, json};

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n\
    {% endfor %}{% if add_generation_prompt %}a:{% endif %}";

/// A model of bytes with a chat template.
fn checkpoint() -> Checkpoint {
    let checkpoint = Checkpoint::of_bytes();
    let config = json!({ "bos_token": "<s>", "chat_template": TEMPLATE });
    checkpoint.write("tokenizer_config.json", config.to_string());
    checkpoint
}

fn chat(checkpoint: &Checkpoint, args: &[&str], script: &str) -> Output {
    let mut command = checkpoint.command("chat", &[&["--max-new-tokens", "6"], args].concat());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// The answers to a script that is served.
#[track_caller]
fn answers(checkpoint: &Checkpoint, args: &[&str], script: &str) -> Vec<Value> {
    let output = chat(checkpoint, &[args, &["--json"]].concat(), script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Bytes of the beginning, a question and the head of an answer.
fn prompt_tokens(question: &str) -> usize {
    1 + "u:\n".len() + question.len() + "a:".len()
}

#[test]
fn a_line_is_a_turn_and_only_what_is_new_is_prefilled() {
    let checkpoint = checkpoint();
    let answers = answers(&checkpoint, &[], "deep?\nsure?\n");
    assert_eq!(answers.len(), 2);
    let first = prompt_tokens("deep?");
    assert_eq!(answers[0]["prompt_tokens"], first);
    assert_eq!(answers[0]["reused_tokens"], 0);
    assert_eq!(answers[0]["finish"], "length");
    assert_eq!(answers[0]["new_tokens"], 6);
    let whole = first + answers[0]["text"].as_str().unwrap().len() + 1 + "u:sure?\na:".len();
    assert_eq!(answers[1]["prompt_tokens"], whole);
    // All is kept but for the end of the prompt, and of the answer what its bytes are not its tokens.
    let reused = answers[1]["reused_tokens"].as_u64().unwrap() as usize;
    assert!(
        (1..=whole - MIN_CHUNK).contains(&reused),
        "{reused} of {whole}"
    );
}

#[test]
fn undo_goes_back_to_before_the_question() {
    let checkpoint = checkpoint();
    let answers = answers(
        &checkpoint,
        &[],
        "deep?\nwide?\n/undo\nwide?\n/undo\n/undo\ndeep?\n",
    );
    assert_eq!(answers[1]["text"], answers[2]["text"]);
    assert_eq!(answers[1]["prompt_tokens"], answers[2]["prompt_tokens"]);
    assert_eq!(answers[0]["text"], answers[3]["text"]);
    let first = prompt_tokens("deep?");
    // The last tokens of a prompt are always fed.
    assert_eq!(answers[3]["reused_tokens"], first.saturating_sub(MIN_CHUNK));
}

#[test]
fn retry_answers_again_with_other_draws() {
    let checkpoint = checkpoint();
    let greedy = answers(&checkpoint, &[], "deep?\n/retry\n");
    assert_eq!(greedy[0]["text"], greedy[1]["text"]);
    let drawn = answers(
        &checkpoint,
        &["--temperature", "5"],
        "deep?\n/retry\n/retry\n",
    );
    assert_eq!(drawn[0]["prompt_tokens"], drawn[1]["prompt_tokens"]);
    assert!(drawn[0]["text"] != drawn[1]["text"] || drawn[1]["text"] != drawn[2]["text"]);
}

#[test]
fn a_saved_conversation_goes_on_where_it_was() {
    let checkpoint = checkpoint();
    let file = checkpoint.path().join("saved.json");
    let file = file.display();
    let script = format!("deep?\n/save {file}\nsure?\n/reset\n/load {file}\nsure?\n");
    let answers = answers(&checkpoint, &["--system", "brief"], &script);
    assert_eq!(answers[1]["text"], answers[2]["text"]);
    assert_eq!(answers[1]["prompt_tokens"], answers[2]["prompt_tokens"]);
    let saved = std::fs::read(checkpoint.path().join("saved.json")).unwrap();
    let saved: Value = serde_json::from_slice(&saved).unwrap();
    let roles = saved["messages"].as_array().unwrap().iter();
    let roles = roles
        .map(|message| message["role"].clone())
        .collect::<Vec<_>>();
    assert_eq!(roles, ["system", "user", "assistant"]);
}

#[test]
fn a_document_is_part_of_the_next_question() {
    let checkpoint = checkpoint();
    let document = checkpoint.write("sea.txt", "11 km");
    let script = format!("/file {}\ndeep?\n", document.display());
    let answers = answers(&checkpoint, &[], &script);
    let question = "sea.txt:\n\n11 km\n\ndeep?";
    assert_eq!(answers[0]["prompt_tokens"], prompt_tokens(question));
}

#[test]
fn special_tokens_in_a_question_are_text() {
    let checkpoint = checkpoint();
    let answers = answers(&checkpoint, &[], "a</s><s>b\n");
    assert_eq!(answers[0]["prompt_tokens"], prompt_tokens("a</s><s>b"));
}

#[test]
fn a_policy_that_covers_the_context_gives_the_dense_answer() {
    let checkpoint = checkpoint();
    let script = "/policy dense\nhow deep?\n/undo\n/policy quest\n/budget 1K\nhow deep?\n/stats\n";
    let output = chat(&checkpoint, &["--json"], script);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let texts = lines.map(|line| line["text"].clone()).collect::<Vec<_>>();
    assert_eq!(texts[0], texts[1]);
    for part in [
        "policy: dense",
        "budget: 1024 tokens",
        "of the cache",
        "KV cache",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn lines_that_are_refused_leave_the_conversation_as_it_was() {
    let checkpoint = checkpoint();
    let script = "/nothing\n/retry\n/load absent.json\n/policy fast\n/budget 7\ndeep?\n";
    let output = chat(&checkpoint, &["--json"], script);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in [
        "error: /nothing: expected a command, see /help",
        "error: /retry: expected a question to answer again, found none",
        "error: absent.json: expected a readable file",
        "error: policy: expected one of dense",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let stdout = String::from_utf8(output.stdout).unwrap();
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(answer["prompt_tokens"], prompt_tokens("deep?"));
}

#[test]
fn a_question_without_room_is_refused_and_forgotten() {
    let checkpoint = checkpoint();
    let script = format!("{}\nshort\n", "long ".repeat(40));
    let output = chat(&checkpoint, &["--json", "--context", "64"], &script);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("error: context: expected at most 64 tokens"),
        "{stderr}"
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["prompt_tokens"], prompt_tokens("short"));
}

#[test]
fn a_model_without_a_template_says_so_and_takes_one() {
    let checkpoint = Checkpoint::of_bytes();
    let error = checkpoint.run_refused("chat", &["--json"]);
    assert!(error.contains("expected a chat template"), "{error}");
    assert!(error.contains("--chat-template FILE"), "{error}");
    let template = checkpoint.write("mine.jinja", TEMPLATE);
    let args = ["--chat-template", template.to_str().unwrap()];
    assert_eq!(answers(&checkpoint, &args, "deep?\n").len(), 1);
}

#[test]
fn generate_asks_its_prompt_as_a_question() {
    let checkpoint = checkpoint();
    let args = ["--chat", "--prompt", "deep?", "--max-new-tokens", "6"];
    let generated = checkpoint.run_json("generate", &args);
    assert_eq!(generated["prompt_tokens"], prompt_tokens("deep?"));
    let answers = answers(&checkpoint, &[], "deep?\n");
    assert_eq!(generated["text"], answers[0]["text"]);
    let error = checkpoint.run_refused("generate", &["--prompt", "a", "--system", "b"]);
    assert!(error.contains("--system: expected --chat too"), "{error}");
}

#[test]
fn sampling_is_as_the_checkpoint_asks_unless_told_otherwise() {
    let checkpoint = checkpoint();
    checkpoint.edit_json("generation_config.json", |config| {
        config["do_sample"] = json!(true);
        config["temperature"] = json!(5.0);
        config["top_k"] = json!(20);
    });
    let run = |args: &[&str]| {
        let prompt = [
            "--prompt",
            "deep",
            "--max-new-tokens",
            "8",
            "--ignore-eos",
            "--json",
        ];
        let output = checkpoint.run("generate", &[&prompt, args].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["ids"].clone(), stderr)
    };
    let (asked, said) = run(&[]);
    assert!(
        said.contains("sampling: temperature 5, top-k 20 (of the checkpoint's"),
        "{said}"
    );
    assert_eq!(run(&["--temperature", "5", "--top-k", "20"]).0, asked);
    assert_ne!(run(&["--seed", "7"]).0, asked);
    let (greedy, said) = run(&["--temperature", "0"]);
    assert!(!said.contains("sampling:"), "{said}");
    assert_eq!(run(&["--top-k", "1"]).0, greedy);
}
