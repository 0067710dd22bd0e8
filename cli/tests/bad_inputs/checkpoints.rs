//! Folders, configurations and weights.

use std::fs;

use quest_burn_tests::checkpoint::CheckpointSpec;
use serde_json::json;

use super::{Case, assert_refused};

#[test]
fn folders_and_configurations() {
    for case in [
        Case {
            name: "absent folder",
            spoil: |checkpoint| fs::remove_dir_all(checkpoint.path()).unwrap(),
            expected: &["expected a folder with a model or a GGUF file, found nothing"],
            ..Case::default()
        },
        Case {
            name: "absent config.json",
            spoil: |checkpoint| fs::remove_file(checkpoint.path().join("config.json")).unwrap(),
            expected: &["found a folder without config.json"],
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
                " and 4 more",
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
            expected: &[
                "9 unexpected",
                "model.layers.1.mlp.up_proj.weight [96, 64]",
                " and 4 more",
            ],
            ..Case::default()
        },
    ] {
        assert_refused(&case);
    }
}
