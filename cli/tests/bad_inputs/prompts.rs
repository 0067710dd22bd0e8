//! Prompts and texts.

use quest_burn_tests::tokenizer::write_words;

use super::{Case, IDS, assert_refused, common::Checkpoint};

/// A tokenizer that adds nothing to a text.
fn words_that_begin_nothing(checkpoint: &Checkpoint) {
    write_words(checkpoint.path(), 160);
    checkpoint.edit_json("tokenizer.json", |tokenizer| {
        tokenizer["post_processor"] = serde_json::Value::Null;
    });
}

#[test]
fn prompts() {
    for case in [
        Case {
            name: "id outside the vocabulary",
            spoil: |checkpoint| drop(checkpoint.write_ids(&[5, 160])),
            expected: &["below the vocabulary size 160, found 160 at index 1"],
            ..Case::default()
        },
        Case {
            name: "id outside the vocabulary, scored",
            subcommand: "perplexity",
            spoil: |checkpoint| drop(checkpoint.write_ids(&[5, 160])),
            args: &["--ids", IDS],
            expected: &["below the vocabulary size 160, found 160 at index 1"],
            ..Case::default()
        },
        Case {
            name: "empty ids",
            spoil: |checkpoint| drop(checkpoint.write_ids(&[])),
            expected: &["prompt: expected at least one token, found none"],
            ..Case::default()
        },
        Case {
            name: "empty prompt, of a tokenizer that begins no text",
            spoil: words_that_begin_nothing,
            args: &["--prompt", ""],
            expected: &["prompt: expected at least one token, found none"],
            ..Case::default()
        },
        Case {
            name: "no prompt",
            args: &[],
            expected: &["--prompt <TEXT>", "--ids <FILE>"],
            ..Case::default()
        },
        Case {
            name: "two prompts",
            args: &["--prompt", "w3", "--ids", IDS],
            expected: &["cannot be used with"],
            ..Case::default()
        },
        Case {
            name: "prompt longer than the checkpoint's context",
            spoil: |checkpoint| drop(checkpoint.write_ids(&[3; 61])),
            expected: &["at most 64 tokens, found a prompt of 61 and 4 new tokens"],
            ..Case::default()
        },
        Case {
            name: "prompt longer than the context asked for",
            args: &["--ids", IDS, "--max-new-tokens", "4", "--context", "11"],
            expected: &["at most 11 tokens, found a prompt of 8 and 4 new tokens"],
            ..Case::default()
        },
        Case {
            name: "text longer than the context",
            subcommand: "perplexity",
            args: &["--ids", IDS, "--context", "7"],
            expected: &["at most 7 tokens, found 8"],
            ..Case::default()
        },
        Case {
            name: "context longer than the checkpoint's",
            args: &["--ids", IDS, "--context", "65"],
            expected: &["at most 64 tokens, found 65"],
            ..Case::default()
        },
        Case {
            name: "text without tokenizer.json",
            args: &["--prompt", "w3 w4"],
            expected: &["text needs tokenizer.json next to the weights, found none"],
            ..Case::default()
        },
        Case {
            name: "garbled tokenizer.json",
            spoil: |checkpoint| drop(checkpoint.write("tokenizer.json", "{\"model\": 7")),
            args: &["--prompt", "w3 w4"],
            expected: &["expected a Hugging Face tokenizer in", "tokenizer.json"],
            ..Case::default()
        },
        Case {
            name: "absent ids file",
            args: &["--ids", "{dir}/absent.json"],
            expected: &["absent.json: "],
            ..Case::default()
        },
        Case {
            name: "folder in place of an ids file",
            args: &["--ids", "{dir}"],
            expected: &["expected a readable file: Is a directory"],
            ..Case::default()
        },
        Case {
            name: "folder in place of a prompt file",
            spoil: |checkpoint| write_words(checkpoint.path(), 160),
            args: &["--prompt-file", "{dir}"],
            expected: &["expected a readable file: Is a directory"],
            ..Case::default()
        },
        Case {
            name: "prompt file that is no text",
            spoil: |checkpoint| {
                write_words(checkpoint.path(), 160);
                checkpoint.write("prompt.txt", b"w3 \xff w4");
            },
            args: &["--prompt-file", "{dir}/prompt.txt"],
            expected: &["prompt.txt: expected text in UTF-8, found something else at byte 3"],
            ..Case::default()
        },
        Case {
            name: "empty prompt file, of a tokenizer that begins no text",
            spoil: |checkpoint| {
                words_that_begin_nothing(checkpoint);
                checkpoint.write("prompt.txt", "");
            },
            args: &["--prompt-file", "{dir}/prompt.txt"],
            expected: &["prompt.txt: prompt: expected at least one token, found none"],
            ..Case::default()
        },
        Case {
            name: "garbled ids file",
            spoil: |checkpoint| drop(checkpoint.write("ids.json", "[1, 2")),
            expected: &["ids.json: expected JSON"],
            ..Case::default()
        },
        Case {
            name: "ids that are no ids",
            spoil: |checkpoint| drop(checkpoint.write("ids.json", "{\"ids\": [1, -2]}")),
            expected: &["ids.json: expected a token id, found -2 at index 1"],
            ..Case::default()
        },
        Case {
            name: "one id to score",
            subcommand: "perplexity",
            spoil: |checkpoint| drop(checkpoint.write_ids(&[5])),
            args: &["--ids", IDS],
            expected: &["expected at least 2 to score, found 1"],
            ..Case::default()
        },
        Case {
            name: "no budget below the length",
            subcommand: "sparsity",
            args: &["--ids", IDS],
            expected: &["text: expected more tokens than a page has, 8, found 8"],
            ..Case::default()
        },
        Case {
            name: "nothing left to score",
            subcommand: "perplexity",
            args: &["--ids", IDS, "--prefill", "8"],
            expected: &["prefill: expected from 1 to 7 of 8 tokens, found 8"],
            ..Case::default()
        },
    ] {
        assert_refused(&case);
    }
}
