//! Checkpoints of every supported kind, made here, against the naive model.

use burn::tensor::DType;
use quest_burn::QuestConfig;
use quest_burn_tests::{
    arrays::{assert_close, assert_mostly_close},
    checkpoint::{self, CheckpointSpec},
    devices::devices,
    loaded::Loaded,
    naive,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tempfile::TempDir;

const TOLERANCE: f64 = 1e-4;
const TOKENS: usize = 240;
const PREFILL: usize = 150;
const PAGE_SIZE: usize = 16;

/// One of each kind, by what is special about it.
fn kinds() -> Vec<(&'static str, CheckpointSpec)> {
    let base = CheckpointSpec::default();
    vec![
        ("grouped heads", base.clone()),
        (
            "multi-head attention",
            CheckpointSpec {
                n_kv_heads: 4,
                seed: 2,
                ..base.clone()
            },
        ),
        (
            "bf16 in shards, tied embeddings, llama3 RoPE",
            CheckpointSpec {
                dtype: DType::BF16,
                shards: 3,
                tied: true,
                seed: 3,
                rope: json!({ "rope_parameters": {
                    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 128,
                } }),
                ..base.clone()
            },
        ),
        (
            "llama3 RoPE in the older style",
            CheckpointSpec {
                seed: 4,
                rope: json!({ "rope_theta": 10000.0, "rope_scaling": {
                    "rope_type": "llama3", "factor": 4.0,
                    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                } }),
                ..base.clone()
            },
        ),
        (
            "linear RoPE in the older style",
            CheckpointSpec {
                seed: 5,
                rope: json!({ "rope_scaling": { "type": "linear", "factor": 8.0 } }),
                ..base.clone()
            },
        ),
        (
            "yarn RoPE in the older style",
            CheckpointSpec {
                seed: 6,
                max_positions: 1024,
                rope: json!({ "rope_theta": 10000.0, "rope_scaling": {
                    "type": "yarn", "factor": 16.0, "original_max_position_embeddings": 64,
                } }),
                ..base.clone()
            },
        ),
        (
            "yarn RoPE with an attention factor",
            CheckpointSpec {
                seed: 7,
                rope: json!({ "rope_parameters": {
                    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
                    "original_max_position_embeddings": 128, "attention_factor": 0.9,
                    "beta_fast": 16.0, "beta_slow": 2.0,
                } }),
                ..base.clone()
            },
        ),
        (
            "Mistral in f16",
            CheckpointSpec {
                architecture: "MistralForCausalLM",
                dtype: DType::F16,
                seed: 8,
                ..base.clone()
            },
        ),
        (
            "Qwen2, biases",
            CheckpointSpec {
                architecture: "Qwen2ForCausalLM",
                n_heads: 6,
                n_kv_heads: 2,
                head_dim: 12,
                d_model: 72,
                seed: 9,
                ..base.clone()
            },
        ),
        (
            "Qwen3, query and key norms, heads wider than the model",
            CheckpointSpec {
                architecture: "Qwen3ForCausalLM",
                head_dim: 32,
                tied: true,
                seed: 10,
                rope: json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 1e6 } }),
                ..base.clone()
            },
        ),
    ]
}

fn saved(spec: &CheckpointSpec) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    checkpoint::write(dir.path(), spec);
    dir
}

fn random_ids(n: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n)
        .map(|_| rng.random_range(0..vocab_size as u32))
        .collect()
}

/// Calls `test` with the naive model and the loaded one, for every kind and device.
fn for_each_kind(test: impl Fn(&naive::Model, &Loaded, &[u32], &str)) {
    for (kind, spec) in kinds() {
        let dir = saved(&spec);
        let model = naive::Model::load(dir.path());
        let ids = random_ids(TOKENS, spec.vocab_size, spec.seed);
        for device in devices() {
            let loaded = Loaded::new(dir.path(), &device.device, DType::F32);
            test(&model, &loaded, &ids, &format!("{kind} on {device}"));
        }
    }
}

fn presets() -> [QuestConfig; 3] {
    [
        QuestConfig::accuracy_code(),
        QuestConfig::kernels(),
        QuestConfig::kv_group(),
    ]
}

#[test]
fn dense_likelihoods_match_the_naive_model() {
    for_each_kind(|model, loaded, ids, context| {
        assert_close(
            &loaded.dense_nlls(ids),
            &model.dense_nlls(ids),
            TOLERANCE,
            context,
        );
    });
}

#[test]
fn greedy_ids_match_the_naive_model() {
    for_each_kind(|model, loaded, ids, context| {
        let prompt = &ids[..70];
        assert_eq!(
            loaded.greedy(prompt, 24),
            model.greedy(prompt, 24),
            "{context}"
        );
    });
}

#[test]
fn quest_likelihoods_match_the_naive_model() {
    for_each_kind(|model, loaded, ids, context| {
        for preset in presets() {
            let quest = preset.with_token_budget(64);
            let found = loaded.quest_nlls(ids, PREFILL, &quest, PAGE_SIZE);
            let expected = model.quest_nlls(ids, PREFILL, &quest, PAGE_SIZE);
            assert_mostly_close(
                &found,
                &expected,
                TOLERANCE,
                &format!("{context}, {quest:?}"),
            );
        }
    });
}

#[test]
fn sparsity_changes_the_result() {
    for_each_kind(|model, _, ids, context| {
        let dense = &model.dense_nlls(ids)[PREFILL - 1..];
        for preset in presets() {
            let sparse = model.quest_nlls(ids, PREFILL, &preset.with_token_budget(64), PAGE_SIZE);
            let changed = dense
                .iter()
                .zip(&sparse)
                .filter(|(d, s)| (*d - *s).abs() > 1e-2)
                .count();
            assert!(
                changed > sparse.len() / 4,
                "{context}: a test of Quest that dense would pass"
            );
        }
    });
}

#[test]
fn prefill_and_decode_agree() {
    for_each_kind(|_, loaded, ids, context| {
        let prefilled = &loaded.dense_nlls(ids)[PREFILL - 1..];
        let decoded = loaded.dense_decode_nlls(ids, PREFILL, PAGE_SIZE);
        assert_close(&decoded, prefilled, TOLERANCE, context);
    });
}

#[test]
fn a_budget_that_covers_the_context_equals_dense_to_the_last_bit() {
    for_each_kind(|_, loaded, ids, context| {
        for page_size in [8, 32] {
            let dense = loaded.dense_decode_nlls(ids, PREFILL, page_size);
            for preset in presets() {
                let quest = preset.with_token_budget(TOKENS.next_multiple_of(page_size));
                assert_eq!(
                    loaded.quest_nlls(ids, PREFILL, &quest, page_size),
                    dense,
                    "{context}, {quest:?}"
                );
            }
        }
    });
}

#[test]
fn shards_load_as_one_file_does() {
    let whole = CheckpointSpec::default();
    let ids = random_ids(40, whole.vocab_size, 0);
    for device in devices() {
        let load = |shards| {
            let dir = saved(&CheckpointSpec {
                shards,
                ..whole.clone()
            });
            Loaded::new(dir.path(), &device.device, DType::F32).dense_nlls(&ids)
        };
        assert_eq!(load(5), load(1), "{device}");
    }
}

#[test]
fn different_prompts_have_different_continuations() {
    let dir = saved(&CheckpointSpec::default());
    let model = naive::Model::load(dir.path());
    let continuation = |seed| model.greedy(&random_ids(20, 160, seed), 8);
    assert_ne!(continuation(1), continuation(2));
}
