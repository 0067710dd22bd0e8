//! What cannot be served gets one line that says why, and exit code 2.

mod common;

use std::fs;

use common::{Checkpoint, ids};
use quest_burn_tests::checkpoint::CheckpointSpec;
use serde_json::json;

const IDS: &str = "{ids}";

/// One bad input.
struct Case {
    name: &'static str,
    spec: CheckpointSpec,
    /// What is wrong with the checkpoint.
    spoil: fn(&Checkpoint),
    subcommand: &'static str,
    /// `{ids}` stands for a file with eight good ids.
    args: &'static [&'static str],
    /// Parts of the message.
    expected: &'static [&'static str],
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            spec: CheckpointSpec {
                n_layers: 2,
                max_positions: 64,
                ..CheckpointSpec::default()
            },
            spoil: |_| (),
            subcommand: "generate",
            args: &["--ids", IDS, "--max-new-tokens", "4"],
            expected: &[],
        }
    }
}

#[track_caller]
fn assert_refused(case: &Case) {
    let checkpoint = Checkpoint::new(&case.spec);
    let ids = checkpoint.write_ids(&ids(8, case.spec.vocab_size));
    (case.spoil)(&checkpoint);
    let replaced = case.args.iter().map(|arg| {
        let path = checkpoint.path().to_str().unwrap();
        arg.replace(IDS, ids.to_str().unwrap())
            .replace("{dir}", path)
    });
    let output = checkpoint.run(case.subcommand, &replaced.collect::<Vec<_>>());

    let name = case.name;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
    assert!(output.stdout.is_empty(), "{name}: output on stdout");
    let errors = stderr.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{name}: {stderr}");
    let error = stderr.lines().last().unwrap();
    assert!(error.starts_with("error: "), "{name}: {stderr}");
    for expected in case.expected {
        assert!(error.contains(expected), "{name}: {expected:?} in {error}");
    }
}

#[test]
fn folders_and_configurations() {
    for case in [
        Case {
            name: "absent folder",
            spoil: |checkpoint| fs::remove_dir_all(checkpoint.path()).unwrap(),
            expected: &["expected a folder with a model, found nothing"],
            ..Case::default()
        },
        Case {
            name: "absent config.json",
            spoil: |checkpoint| fs::remove_file(checkpoint.path().join("config.json")).unwrap(),
            expected: &["config.json: expected a readable file"],
            ..Case::default()
        },
        Case {
            name: "empty config.json",
            spoil: |checkpoint| drop(checkpoint.write("config.json", "")),
            expected: &["config.json: expected a JSON object"],
            ..Case::default()
        },
        Case {
            name: "truncated config.json",
            spoil: |checkpoint| {
                let text = fs::read(checkpoint.path().join("config.json")).unwrap();
                checkpoint.write("config.json", &text[..text.len() / 2]);
            },
            expected: &["config.json: expected a JSON object"],
            ..Case::default()
        },
        Case {
            name: "garbled config.json",
            spoil: |checkpoint| drop(checkpoint.write("config.json", [0xff, 0x00, 0xfe])),
            expected: &["config.json: expected a JSON object"],
            ..Case::default()
        },
        Case {
            name: "unsupported architecture",
            spoil: |checkpoint| {
                checkpoint.edit_json("config.json", |config| {
                    config["architectures"] = json!(["GPT2LMHeadModel"]);
                    config["model_type"] = json!("gpt2");
                });
            },
            expected: &[
                "unsupported architecture",
                "GPT2LMHeadModel",
                "LlamaForCausalLM",
            ],
            ..Case::default()
        },
        Case {
            name: "unsupported RoPE",
            spec: CheckpointSpec {
                rope: json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } }),
                ..Case::default().spec
            },
            expected: &["config.json: unsupported", "`dynamic`"],
            ..Case::default()
        },
    ] {
        assert_refused(&case);
    }
}

#[test]
fn weights() {
    for case in [
        Case {
            name: "no weights",
            spoil: |checkpoint| {
                fs::remove_file(checkpoint.path().join("model.safetensors")).unwrap();
            },
            expected: &["expected weights in one of", "found none"],
            ..Case::default()
        },
        Case {
            name: "a shard that is listed is absent",
            spec: CheckpointSpec {
                shards: 3,
                ..Case::default().spec
            },
            spoil: |checkpoint| {
                let shard = checkpoint.path().join("model-00002-of-00003.safetensors");
                fs::remove_file(shard).unwrap();
            },
            expected: &["model-00002-of-00003.safetensors", "found none"],
            ..Case::default()
        },
        Case {
            name: "truncated safetensors",
            spoil: |checkpoint| {
                let bytes = fs::read(checkpoint.path().join("model.safetensors")).unwrap();
                checkpoint.write("model.safetensors", &bytes[..bytes.len() - 100]);
            },
            expected: &["model.safetensors: expected safetensors", "truncated"],
            ..Case::default()
        },
        Case {
            name: "wrong shapes",
            spoil: |checkpoint| {
                checkpoint.edit_json("config.json", |config| {
                    config["intermediate_size"] = json!(100);
                });
            },
            expected: &["model.layers.0.mlp.up_proj.weight (expected [100, 64], found [96, 64])"],
            ..Case::default()
        },
        Case {
            name: "missing tensors",
            spoil: |checkpoint| {
                checkpoint.edit_json("config.json", |config| {
                    config["num_hidden_layers"] = json!(3);
                });
            },
            expected: &[
                "9 missing",
                "model.layers.2.self_attn.q_proj.weight [64, 64]",
            ],
            ..Case::default()
        },
        Case {
            name: "unexpected tensors",
            spoil: |checkpoint| {
                checkpoint.edit_json("config.json", |config| {
                    config["num_hidden_layers"] = json!(1);
                });
            },
            expected: &["9 unexpected", "model.layers.1.mlp.up_proj.weight [96, 64]"],
            ..Case::default()
        },
    ] {
        assert_refused(&case);
    }
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
            name: "empty prompt",
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
            expected: &["text needs tokenizer.json beside the weights, found none"],
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

#[test]
fn options() {
    for case in [
        Case {
            name: "budget smaller than a page",
            args: &["--ids", IDS, "--token-budget", "15"],
            expected: &["token budget: expected at least one page of 16 tokens, found 15"],
            ..Case::default()
        },
        Case {
            name: "page size that is no power of two",
            subcommand: "info",
            args: &["--page-size", "12"],
            expected: &["page size: expected a power of two from 8 to 128, found 12"],
            ..Case::default()
        },
        Case {
            name: "empty prefill chunk",
            args: &["--ids", IDS, "--prefill-chunk", "0"],
            expected: &["prefill chunk: expected at least 1 token, found 0"],
            ..Case::default()
        },
        Case {
            name: "negative temperature",
            args: &["--ids", IDS, "--temperature=-1"],
            expected: &["temperature: expected a finite number of at least 0, found -1"],
            ..Case::default()
        },
        Case {
            name: "filter without temperature",
            args: &["--ids", IDS, "--top-k", "4"],
            expected: &["--temperature <T>"],
            ..Case::default()
        },
        Case {
            name: "unknown device",
            args: &["--ids", IDS, "--device", "tpu"],
            expected: &[
                "invalid value 'tpu' for '--device <DEVICE>'",
                "flex",
                "cuda",
            ],
            ..Case::default()
        },
        Case {
            name: "unknown option",
            args: &["--ids", IDS, "--quantize"],
            expected: &["unexpected argument '--quantize'"],
            ..Case::default()
        },
        Case {
            name: "unknown subcommand",
            subcommand: "train",
            args: &[],
            expected: &["unrecognized subcommand 'train'"],
            ..Case::default()
        },
    ] {
        assert_refused(&case);
    }
}

#[test]
fn devices_that_are_not_compiled_in_name_the_feature() {
    let compiled_in = [
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("metal", cfg!(feature = "metal")),
        ("ndarray", cfg!(feature = "ndarray")),
    ];
    let absent = compiled_in
        .into_iter()
        .filter(|(_, is_compiled_in)| !is_compiled_in);
    for (device, _) in absent {
        let checkpoint = Checkpoint::new(&Case::default().spec);
        let output = checkpoint.run("info", &["--device", device]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(
            stderr,
            format!(
                "error: device {device} is not compiled in: build with `--features {device}`\n"
            )
        );
    }
}

#[cfg(all(target_os = "linux", any(feature = "cuda", feature = "wgpu")))]
#[test]
fn devices_without_hardware_are_an_error_and_auto_takes_the_cpu() {
    // Hides every GPU and every software one from CUDA, Vulkan and OpenGL.
    let nowhere = [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("VK_DRIVER_FILES", "/nonexistent"),
        ("VK_ICD_FILENAMES", "/nonexistent"),
        ("LIBGL_DRIVERS_PATH", "/nonexistent"),
        ("__EGL_VENDOR_LIBRARY_DIRS", "/nonexistent"),
    ];
    let checkpoint = Checkpoint::new(&Case::default().spec);
    let run = |device| {
        let mut command = checkpoint.command("generate", &["--device", device]);
        let ids = checkpoint.write_ids(&ids(8, 160));
        command.args(["--max-new-tokens", "2", "--ids"]).arg(ids);
        let output = command.envs(nowhere).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for (device, is_compiled_in) in [
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("wgpu", cfg!(feature = "wgpu")),
    ] {
        if is_compiled_in {
            let expected = format!(
                "error: device {device}: expected hardware and a driver for it, found none\n"
            );
            assert_eq!(run(device), (Some(2), expected));
        }
    }
    let (code, stderr) = run("auto");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.starts_with("device: flex (no GPU found; "),
        "{stderr}"
    );
}
