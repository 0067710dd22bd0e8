//! A real chat model, SmolLM2-135M-Instruct as a GGUF file, against what Hugging Face transformers
//! computed of the same weights.
//!
//! `QUEST_BURN_REAL_MODEL` names the file, and `QUEST_BURN_REAL_MODEL_GOLDEN` the reference values where
//! they are not at `../shared/real-model/golden.json`. Skipped without them, and said.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device};
use quest_burn_models::{
    config::ModelConfig,
    source::{self, CheckpointSource},
    tokenizer::Tokenizer,
};
use quest_burn_tests::{
    arrays::{assert_close, assert_mostly_close},
    fixtures::Golden,
    loaded::Loaded,
};
use serde::Deserialize;

const TOLERANCE: f64 = 1e-3;
/// The same where rows of a few tokens are rounded to 8 bits, as on CPUs with blocks as they are stored.
const ROUNDED_TOLERANCE: f64 = 0.1;
/// Tokens that are scored densely, and tokens that are decoded through Quest behind the prefill.
const SCORED: usize = 768;
const DECODED: usize = 24;

#[derive(Deserialize)]
struct Reference {
    text: String,
    ids: Vec<u32>,
    prefill: usize,
    page_size: usize,
    dense_layers: usize,
    tokenizer: Vec<Tokens>,
    f32: Values,
}

#[derive(Deserialize)]
struct Tokens {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Values {
    greedy: Vec<Greedy>,
    dense_nll: Vec<f64>,
    #[serde(flatten)]
    quest: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Greedy {
    name: String,
    text: String,
    ids: Vec<u32>,
    continuation: Vec<u32>,
}

fn model() -> Option<(PathBuf, Reference)> {
    let golden = env::var_os("QUEST_BURN_REAL_MODEL_GOLDEN").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/real-model/golden.json");
    let golden = golden.unwrap_or(beside);
    let model = env::var_os("QUEST_BURN_REAL_MODEL").map(PathBuf::from);
    let (Some(model), true) = (model, golden.is_file()) else {
        eprintln!(
            "SKIPPED: no model is named by QUEST_BURN_REAL_MODEL, or no values are beside it"
        );
        return None;
    };
    let text = fs::read(&golden).unwrap_or_else(|error| panic!("{}: {error}", golden.display()));
    Some((model, serde_json::from_slice(&text).unwrap()))
}

fn load(path: &Path) -> Loaded {
    Loaded::new(path, &Device::default(), DType::F32)
}

#[test]
fn texts_become_the_tokens_that_transformers_gives() {
    let Some((path, golden)) = model() else {
        return;
    };
    let tokenizer = Tokenizer::from_dir(&path).unwrap();
    for Tokens { text, ids } in &golden.tokenizer {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text}");
    }
    for Greedy { text, ids, .. } in &golden.f32.greedy {
        assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{text}");
    }
    let ids = tokenizer.encode(&golden.text).unwrap();
    assert_eq!(ids[..golden.ids.len()], golden.ids);
    // Through a `tokenizer.json` of it, too.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(
        dir.path().join(Tokenizer::FILE),
        tokenizer.to_json().unwrap(),
    )
    .unwrap();
    let written = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(written.encode(&golden.text).unwrap(), ids);
}

#[test]
fn the_file_says_what_the_model_is() {
    let Some((path, _)) = model() else { return };
    let source: Box<dyn CheckpointSource> = source::open(&path).unwrap();
    let config: ModelConfig = source.config().unwrap();
    assert_eq!(config.n_parameters(), 134_515_008);
    assert_eq!(
        (config.n_layers, config.n_heads, config.n_kv_heads),
        (30, 9, 3)
    );
    assert_eq!((config.max_positions, config.rope.theta), (8192, 100_000.0));
    assert!(config.tie_word_embeddings);
    assert_eq!(config.rms_norm_epsilon, 1e-5);
    // <|im_end|>, and <|endoftext|> of the base model.
    assert_eq!(source.generation().unwrap().stop_token_ids, [2, 0]);
    assert!(source.chat_templates().unwrap().is_some());
    let special = source.special_tokens().unwrap();
    assert!(
        special
            .iter()
            .any(|token| token == ("eos_token", "<|im_end|>"))
    );
}

#[test]
fn likelihoods_and_greedy_tokens_are_those_of_transformers() {
    let Some((path, golden)) = model() else {
        return;
    };
    let loaded = load(&path);
    let found = loaded.dense_nlls(&golden.ids[..SCORED]);
    let expected = &golden.f32.dense_nll[..SCORED - 1];
    assert_close(&found, expected, TOLERANCE, "dense likelihoods");
    for greedy in &golden.f32.greedy {
        let found = loaded.greedy(&greedy.ids, greedy.continuation.len());
        assert_eq!(found, greedy.continuation, "{}", greedy.name);
    }
}

/// Blocks that stay as they are: prompts are multiplied in f32, and are as exact as with widened weights.
/// Decoded tokens are rounded to 8 bits before the products.
#[test]
fn likelihoods_through_stored_blocks_are_near_those_of_transformers() {
    let Some((path, golden)) = model() else {
        return;
    };
    let loaded = Loaded::stored(&path, &Device::default(), DType::F32);
    let full = load(&path).model().weight_bytes().unwrap();
    let stored = loaded.model().weight_bytes().unwrap();
    assert_eq!(loaded.model().weights_name(), "Q4_1");
    assert!(stored < full / 2, "{stored} of {full} bytes");
    let found = loaded.dense_nlls(&golden.ids[..SCORED]);
    let expected = &golden.f32.dense_nll[..SCORED - 1];
    assert_close(&found, expected, TOLERANCE, "dense likelihoods");
    let (prefill, end) = (SCORED - DECODED, SCORED);
    let found = loaded.dense_decode_nlls(&golden.ids[..end], prefill, 16);
    let expected = &golden.f32.dense_nll[prefill - 1..end - 1];
    assert_close(&found, expected, ROUNDED_TOLERANCE, "decoded likelihoods");
}

#[test]
fn quest_likelihoods_are_those_of_transformers() {
    let Some((path, golden)) = model() else {
        return;
    };
    let loaded = load(&path);
    let prefill = golden.prefill;
    let reference = Golden {
        ids: golden.ids,
        dense_nll: Vec::new(),
        greedy_prompt_len: 0,
        greedy: Vec::new(),
        greedy_margin: None,
        transformers: None,
        prefill,
        page_size: golden.page_size,
        dense_layers: golden.dense_layers,
        quest: golden.f32.quest,
    };
    // One prefill of the two that the reference has values for.
    let (list, expected) = reference.quest.iter().next_back().unwrap();
    let quest = reference.quest_config(list);
    let ids = &reference.ids[..prefill + DECODED];
    let found = loaded.quest_nlls(ids, prefill, &quest, reference.page_size);
    assert_mostly_close(&found, &expected[..DECODED], TOLERANCE, list);
}
