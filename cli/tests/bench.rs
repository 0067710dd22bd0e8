//! `quest bench` on the CPU: whole models, plots, and what is refused.

#[path = "../../benches/tests/common/mod.rs"]
mod common;

use std::process::Command;

use common::{assert_refused, assert_times_are_ordered, lines};
use quest_burn_linear::blocks::BlockFormat;
use quest_burn_tests::gguf::{GgufSpec, Pair};

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_quest"));
    program.args(["bench", "--device", "flex"]);
    program
}

#[test]
fn a_decode_step_has_a_dense_row_beside_each_quest_row() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("decode.svg");
    let lines = lines(&[
        "decode",
        "--shape",
        "tiny",
        "--contexts",
        "128,256",
        "--budgets",
        "32,128",
        "--batch",
        "2",
        "--steps",
        "3",
        "--plot",
        plot.to_str().unwrap(),
    ]);
    let steps = lines.iter().filter(|line| line["kind"] == "decode");
    let steps = steps.collect::<Vec<_>>();
    let found = steps.iter().map(|line| {
        let operation = line["operation"].as_str().unwrap();
        (
            line["context"].as_u64().unwrap(),
            operation,
            line["budget"].as_u64(),
        )
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            (128, "dense", None),
            (128, "quest", Some(32)),
            (256, "dense", None),
            (256, "quest", Some(32)),
            (256, "quest", Some(128)),
        ]
    );
    for line in steps {
        assert_times_are_ordered(line);
        assert_eq!(line["model"], "tiny");
        let per_second = line["tokens_per_s"].as_f64().unwrap();
        let expected = 2e6 / line["median_us"].as_f64().unwrap();
        assert!((per_second / expected - 1.0).abs() < 1e-9);
        assert!(line["bytes"].as_u64() < line["memory_estimate"].as_u64());
    }
    let covered = lines.iter().find(|line| line["kind"] == "skipped").unwrap();
    assert_eq!(
        (&covered["context"], &covered["budget"]),
        (&128.into(), &128.into())
    );
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.contains("quest, budget 32"));
}

#[test]
fn a_prompt_has_a_dense_row_beside_one_for_each_budget() {
    let lines = lines(&[
        "prefill",
        "--shape",
        "tiny",
        "--contexts",
        "256",
        "--chunks",
        "64",
        "--policies",
        "dense,quest",
        "--budgets",
        "32,64",
        "--prompts",
        "1",
    ]);
    let prompts = lines.iter().filter(|line| line["kind"] == "prefill");
    let found = prompts.map(|line| {
        assert!(line["tokens_per_s"].as_f64().unwrap() > 0.0);
        (line["operation"].as_str().unwrap(), line["budget"].as_u64())
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            ("prefill", None),
            ("prefill-quest", Some(32)),
            ("prefill-quest", Some(64)),
        ]
    );
}

#[test]
fn lossless_answers_have_their_drafts_beside_their_times() {
    let lines = lines(&[
        "lossless",
        "--shape",
        "tiny",
        "--contexts",
        "128",
        "--budgets",
        "32",
        "--draft-tokens",
        "2,5",
        "--new-tokens",
        "16",
    ]);
    let answers = lines.iter().filter(|line| line["kind"] == "decode");
    let answers = answers.collect::<Vec<_>>();
    let found = answers.iter().map(|line| {
        let operation = line["operation"].as_str().unwrap();
        (operation, line["draft_tokens"].as_u64())
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            ("dense", None),
            ("quest", None),
            ("lossless", Some(2)),
            ("lossless", Some(5)),
        ]
    );
    for line in &answers {
        assert!(line["tokens_per_s"].as_f64().unwrap() > 0.0);
    }
    for line in &answers[2..] {
        assert_eq!(line["equal_tokens"], 16);
        assert!(line["tokens_per_pass"].as_f64().unwrap() >= 1.0);
    }
}

#[test]
fn conversations_at_once_have_their_first_tokens_and_the_times_between_tokens() {
    let lines = lines(&[
        "engine",
        "--shape",
        "tiny",
        "--conversations",
        "3",
        "--context",
        "256",
        "--budget",
        "64",
        "--new-tokens",
        "40",
        "--step-tokens",
        "64",
    ]);
    let found = lines.iter().map(|line| {
        assert_times_are_ordered(line);
        let operation = line["operation"].as_str().unwrap();
        (operation, line["batch"].as_u64(), line["budget"].as_u64())
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            ("first token, cold", Some(3), None),
            ("first token, warm", Some(3), None),
            ("dense", Some(3), None),
            ("quest", Some(3), Some(64)),
            ("beside a prompt", Some(1), None),
            ("first token", Some(1), None),
        ]
    );
    assert_refused(
        &["engine", "--shape", "tiny", "--step-tokens", "40"],
        "tokens of a step: expected at least 49 for 17 sequences at once, found 40",
    );
}

#[test]
fn a_gguf_file_is_timed_in_its_blocks_or_widened() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.gguf");
    let spec = GgufSpec {
        format: BlockFormat::Q8_0,
        ..GgufSpec::default()
    };
    std::fs::write(&file, Pair::new(&spec).gguf.bytes()).unwrap();
    let bytes_of = |weights: &[&str], name: &str| {
        let model = ["decode", "--model", file.to_str().unwrap()];
        let sizes = ["--contexts", "64", "--budgets", "32", "--steps", "3"];
        let lines = lines(&[&model[..], &sizes[..], weights].concat());
        let step = lines.iter().find(|line| line["kind"] == "decode").unwrap();
        assert_eq!(step["model"], "model.gguf");
        assert_eq!(step["weights"], name);
        step["bytes"].as_u64().unwrap()
    };
    let blocks = bytes_of(&[], "Q8_0");
    assert_eq!(bytes_of(&["--weights", "stored"], "Q8_0"), blocks);
    assert!(blocks < bytes_of(&["--weights", "f32"], "f32"));
}

#[test]
fn the_cache_has_an_element_type_beside_weights_in_any_form() {
    let bytes_of = |weights: &str, dtype: &str| {
        let model = ["decode", "--shape", "tiny", "--weights", weights];
        let sizes = ["--contexts", "64", "--budgets", "32", "--steps", "3"];
        let lines = lines(&[&model[..], &sizes[..], &["--dtype", dtype]].concat());
        let step = lines.iter().find(|line| line["kind"] == "decode").unwrap();
        assert_eq!(
            (&step["weights"], &step["dtype"]),
            (&weights.into(), &dtype.into())
        );
        step["bytes"].as_u64().unwrap()
    };
    let saved = bytes_of("int4", "f32") - bytes_of("int4", "f16");
    // Keys and values of 64 tokens in four layers of two heads of 16 channels, and weights besides.
    assert!(saved > 64 * 4 * 2 * 2 * 16 * 2, "{saved}");
}

#[test]
fn rows_say_the_form_of_the_weights_and_count_their_bytes() {
    let bytes = ["f32", "int8", "int4"].map(|form| {
        let lines = lines(&[
            "decode",
            "--shape",
            "tiny",
            "--contexts",
            "64",
            "--budgets",
            "32",
            "--steps",
            "3",
            "--weights",
            form,
        ]);
        let steps = lines.iter().filter(|line| line["kind"] == "decode");
        let bytes = steps.map(|line| {
            assert_eq!(
                (&line["weights"], &line["dtype"]),
                (&form.into(), &"f32".into())
            );
            assert!(line["memory_estimate"].as_u64() > line["bytes"].as_u64());
            line["bytes"].as_u64().unwrap()
        });
        bytes.collect::<Vec<_>>()
    });
    // Four layers with two projections of 64 x 64 and two of 32 x 64, two of 128 x 64, one of
    // 64 x 128; a scale of 4 bytes, and a zero point, for each 64 or 128.
    let (weights, groups) = (4 * (12_288 + 3 * 8192), 4 * (192 + 2 * 128 + 64));
    let [full, int8, int4] = bytes;
    for ((full, int8), int4) in full.into_iter().zip(int8).zip(int4) {
        assert_eq!(full - int8, 3 * weights - 4 * groups);
        assert_eq!(full - int4, 4 * weights - weights / 2 - 8 * groups);
    }
}

#[test]
fn prefill_is_a_row_per_chunk() {
    let lines = lines(&[
        "prefill",
        "--shape",
        "tiny",
        "--contexts",
        "64",
        "--chunks",
        "16,64",
        "--prompts",
        "2",
    ]);
    let prompts = lines.iter().filter(|line| line["kind"] == "prefill");
    let chunks = prompts.map(|line| {
        assert_times_are_ordered(line);
        assert!(line["tokens_per_s"].as_f64().unwrap() > 0.0);
        line["chunk"].as_u64().unwrap()
    });
    assert_eq!(chunks.collect::<Vec<_>>(), [16, 64]);
}

#[test]
fn attention_is_timed_on_the_device_that_is_named() {
    let lines = lines(&[
        "attention",
        "--heads",
        "2:1",
        "--head-dim",
        "8",
        "--contexts",
        "64",
        "--budgets",
        "16",
        "--only",
        "top_k_attention",
    ]);
    let last = lines.last().unwrap();
    assert_eq!(last["operation"], "top_k_attention");
    assert_eq!(last["backend"], "flex");
}

#[test]
fn a_share_of_the_channels_is_skipped_without_a_checkpoint() {
    let bytes = ["f32", "int8"].map(|form| {
        let step = |skipped: &[&str], name: &str| {
            let model = ["decode", "--shape", "tiny", "--weights", form];
            let sizes = ["--contexts", "64", "--budgets", "32", "--steps", "3"];
            let lines = lines(&[&model[..], &sizes[..], skipped].concat());
            let step = lines.iter().find(|line| line["kind"] == "decode").unwrap();
            assert_eq!(step["weights"], name);
            step["bytes"].as_u64().unwrap()
        };
        let all = step(&[], form);
        let skipped = ["--activation-sparsity", "0.5"];
        all - step(&skipped, &format!("{form}, 50 % skipped"))
    });
    // Half of the weights of four layers.
    let weights = 4 * (12_288 + 3 * 8192);
    assert_eq!(bytes, [4 * weights / 2, weights / 2]);
}

/// The bytes of these are more than a u64 counts.
#[test]
fn a_cache_that_no_memory_holds_is_skipped() {
    const CONTEXT: &str = "2147483632";
    let all = usize::MAX.to_string();
    for arguments in [
        &["attention", "--heads", "2:1", "--batch", all.as_str()][..],
        &["decode", "--shape", "tiny", "--batch", "2147483647"],
        &["prefill", "--shape", "tiny", "--batch", "2147483647"],
    ] {
        let lines = lines(&[arguments, &["--contexts", CONTEXT]].concat());
        let last = lines.last().unwrap();
        assert_eq!(last["kind"], "skipped", "{last}");
        let reason = last["reason"].as_str().unwrap();
        assert!(reason.contains(&u64::MAX.to_string()), "{reason}");
    }
}

#[test]
fn a_plot_that_cannot_be_written_is_refused_before_anything_is_timed() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("no/such/folder.svg");
    let tiny = ["decode", "--shape", "tiny", "--plot"];
    for plot in [plot.as_path(), dir.path()] {
        let arguments = [&tiny[..], &[plot.to_str().unwrap()]].concat();
        assert_refused(&arguments, "--plot: expected a file that can be written");
    }
}

#[test]
fn bad_input_is_refused() {
    for (arguments, expected) in [
        (
            &["decode", "--weights", "int3", "--shape", "tiny"][..],
            "expected f32, f16, bf16, stored, int8 or int4, found int3",
        ),
        (&["decode", "--shape", "gpt"], "gpt"),
        (
            &[
                "decode",
                "--shape",
                "tiny",
                "--weights",
                "f16",
                "--dtype",
                "f32",
            ],
            "--dtype: expected f16, as in --weights, found f32",
        ),
        (
            &["decode", "--shape", "tiny", "--activation-sparsity", "1.5"],
            "expected a share of the channels from 0 to below 1, or a file, found 1.5",
        ),
        (
            &["decode", "--shape", "tiny", "--activation-sparsity", "x"],
            "--activation-sparsity: expected a share of the channels, as no --model is given, found x",
        ),
        (&["decode", "--shape", "tiny", "--model", "x"], "--model"),
        (
            &["decode", "--model", "/no/such/folder"],
            "expected a folder with a model",
        ),
        (
            &["decode", "--shape", "tiny", "--contexts", "100"],
            "multiples of the page size, 8",
        ),
        (&["decode", "--memory-limit", "1GB"], "room for the weights"),
        (
            &["decode", "--shape", "tiny", "--batch", "0"],
            "expected a number of sequences from 1 to 2147483647, found `0`",
        ),
        (
            &["decode", "--shape", "tiny", "--launch", "graph"],
            "--launch: expected plain, as flex cannot record launches, found graph",
        ),
        (
            &["attention", "--digests", "int8", "--head-dim", "24"],
            "expected a head dim that is a multiple of 16, found 24",
        ),
        (
            &["attention", "--kv-cache", "int8", "--head-dim", "24"],
            "int8 KV cache: expected a head dim that is a multiple of 16, found 24",
        ),
        (
            &["prefill", "--shape", "tiny", "--page-size", "5"],
            "page size",
        ),
        (
            &[
                "prefill",
                "--shape",
                "tiny",
                "--policies",
                "quest",
                "--budgets",
                "7",
            ],
            "prefill budget: expected at least one page of 8 tokens, found 7",
        ),
    ] {
        assert_refused(arguments, expected);
    }
}
