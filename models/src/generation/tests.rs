use std::sync::Mutex;

use burn::{
    module::Param,
    tensor::{DType, Device, Int, Tensor, TensorData, activation::log_softmax},
};
use quest_burn::{
    QuestConfig,
    attention::RopeConfig,
    cache::{LayerCache, PagedKvCache, Step},
    policy::{DensePolicy, PagePolicy, Pages},
};

use super::*;
use crate::{
    config::{Architecture, Blocks, ModelConfig},
    model::CausalLm,
};

const VOCAB_SIZE: usize = 40;

pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: VOCAB_SIZE,
        d_model: 32,
        d_ff: 48,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        max_positions: 128,
        rms_norm_epsilon: 1e-5,
        rope: RopeConfig::new(),
        blocks: Blocks::default(),
        tie_word_embeddings: false,
        quantization: None,
        dtype: None,
        bos_token_id: None,
        stop_token_ids: Vec::new(),
    }
}

fn model() -> CausalLm {
    config().init(&Device::default())
}

fn cache(tokens: usize) -> PagedKvCache {
    let cache = config().cache(8, 1, tokens);
    cache.init(&Device::default(), DType::F32).unwrap()
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i + 5) % VOCAB_SIZE as u32).collect()
}

/// Log-probabilities after each id, without a cache.
fn log_probabilities(model: &CausalLm, ids: &[u32]) -> Vec<Vec<f32>> {
    let ids = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let shape = [1, ids.len()];
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &Device::default());
    let logits = log_softmax(model.forward(ids), 2).into_data();
    let logits = logits.try_to_vec::<f32>().unwrap();
    logits.chunks(VOCAB_SIZE).map(<[f32]>::to_vec).collect()
}

fn greedy_without_cache(model: &CausalLm, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let last = log_probabilities(model, &ids).pop().unwrap();
        let best = (0..VOCAB_SIZE).max_by(|&a, &b| last[a].total_cmp(&last[b]));
        ids.push(best.unwrap() as u32);
    }
    ids.split_off(prompt.len())
}

fn generate(model: &CausalLm, prompt: &[u32], config: GenerationConfig) -> Vec<u32> {
    let mut cache = cache(64);
    let generator = Generator::new(model, &mut cache, &DensePolicy, prompt, config);
    generator.unwrap().map(Result::unwrap).collect()
}

#[test]
fn greedy_tokens_are_those_of_the_model_without_a_cache() {
    let (model, prompt) = (model(), prompt(21));
    let expected = greedy_without_cache(&model, &prompt, 10);
    for chunk in [512, 21, 8, 5, 1] {
        let config = GenerationConfig::new()
            .with_max_new_tokens(10)
            .with_prefill_chunk(chunk);
        assert_eq!(generate(&model, &prompt, config), expected, "chunk {chunk}");
    }
}

#[test]
fn a_stop_id_is_the_last_token() {
    let (model, prompt) = (model(), prompt(9));
    let config = GenerationConfig::new().with_max_new_tokens(20);
    let all = generate(&model, &prompt, config.clone());
    let first = all.iter().position(|id| *id == all[4]).unwrap();
    let mut cache = cache(64);
    let config = config.with_stop_ids(Some(vec![all[4]]));
    let generator = Generator::new(&model, &mut cache, &DensePolicy, &prompt, config);
    let mut generator = generator.unwrap();
    let stopped = generator.by_ref().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(stopped, all[..=first]);
    assert_eq!(generator.finish(), Some(Finish::Stop));
    assert!(generator.next().is_none());
}

#[test]
fn progress_and_timings_count_tokens() {
    let (model, prompt) = (model(), prompt(21));
    let mut cache = cache(64);
    let config = GenerationConfig::new()
        .with_max_new_tokens(4)
        .with_prefill_chunk(8);
    let mut seen = Vec::new();
    let generator = Generator::new(&model, &mut cache, &DensePolicy, &prompt, config);
    let mut generator = generator.unwrap().on_prefill(|done| seen.push(done));
    assert_eq!(generator.by_ref().count(), 4);
    assert_eq!(generator.finish(), Some(Finish::Length));
    let timings = generator.timings();
    assert_eq!((timings.prefill_tokens, timings.decode_tokens), (21, 3));
    assert!(timings.prefill_tokens_per_s().is_some());
    drop(generator);
    assert_eq!(seen, [8, 16, 21]);
    assert_eq!(cache.lengths(), [24], "the last token is not fed back");
}

#[test]
fn a_prompt_may_follow_what_the_cache_holds() {
    let (model, prompt) = (model(), prompt(21));
    let config = GenerationConfig::new().with_max_new_tokens(6);
    let expected = generate(&model, &prompt, config.clone());
    let mut cache = cache(64);
    let nothing = config.clone().with_max_new_tokens(1);
    let first = Generator::new(&model, &mut cache, &DensePolicy, &prompt[..13], nothing);
    assert_eq!(first.unwrap().count(), 1);
    let rest = Generator::new(&model, &mut cache, &DensePolicy, &prompt[13..], config);
    let rest = rest.unwrap().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(rest, expected);
}

#[test]
fn no_new_tokens_is_a_generation_without_work() {
    let (model, mut cache) = (model(), cache(64));
    let config = GenerationConfig::new().with_max_new_tokens(0);
    let generator = Generator::new(&model, &mut cache, &DensePolicy, &[1], config);
    assert_eq!(generator.unwrap().count(), 0);
    assert_eq!(cache.lengths(), [0]);
}

#[test]
fn what_has_no_room_is_refused_before_anything_is_computed() {
    let model = model();
    let mut small = cache(24);
    let refused = |cache: &mut PagedKvCache, config: GenerationConfig| {
        let error = Generator::new(&model, cache, &DensePolicy, &[1; 20], config).err();
        error.unwrap().to_string()
    };
    // The last of five new tokens needs no room, the last of six does.
    let config = GenerationConfig::new().with_max_new_tokens(6);
    assert_eq!(
        refused(&mut small, config.clone()),
        "KV cache: expected at most 24 tokens, found a prompt of 20 and 6 new tokens"
    );
    let fits = config.clone().with_max_new_tokens(5);
    assert!(Generator::new(&model, &mut small, &DensePolicy, &[1; 20], fits).is_ok());
    assert_eq!(small.lengths(), [0]);

    let mut batch = self::config()
        .cache(8, 2, 64)
        .init(&Device::default(), DType::F32)
        .unwrap();
    assert_eq!(
        refused(&mut batch, config),
        "KV cache: expected one sequence, found 2"
    );
}

#[test]
fn logits_that_are_not_numbers_end_the_generation_with_an_error() {
    let mut model = model();
    let broken = model.norm.gamma.val() * f32::NAN;
    model.norm.gamma = Param::from_tensor(broken);
    let mut cache = cache(64);
    let config = GenerationConfig::new().with_max_new_tokens(3);
    let generator = Generator::new(&model, &mut cache, &DensePolicy, &[1, 2], config);
    let mut generator = generator.unwrap();
    let error = generator.next().unwrap().unwrap_err();
    assert!(matches!(error, GenerateError::Sample { length: 2, .. }));
    assert!(!error.is_bad_request());
    assert!(generator.next().is_none());
    assert_eq!(generator.finish(), None);
    drop(generator);

    cache.reset();
    let mode = LikelihoodMode::Decode {
        prefill: 2,
        chunk: 512,
    };
    let ids = [1, 2, 3];
    let nll = negative_log_likelihoods(&model, &mut cache, &DensePolicy, &ids, mode, &mut |_| ());
    assert!(matches!(
        nll.unwrap_err(),
        GenerateError::Likelihood { index: 2, .. }
    ));
}

fn likelihoods(model: &CausalLm, ids: &[u32], mode: LikelihoodMode) -> Vec<f32> {
    let quest = QuestConfig::kv_group().with_token_budget(128);
    let quest = quest.init().unwrap();
    // One id is not fed.
    let mut cache = cache(ids.len() - 1);
    let mut done = 0;
    let nll = negative_log_likelihoods(model, &mut cache, &quest, ids, mode, &mut |n| done = n);
    let nll = nll.unwrap();
    assert_eq!(done, nll.len());
    nll
}

#[test]
fn likelihoods_are_those_of_the_model_without_a_cache() {
    let (model, ids) = (model(), prompt(57));
    let expected = log_probabilities(&model, &ids);
    let expected = expected.iter().zip(&ids[1..]);
    let expected = expected
        .map(|(row, &id)| -row[id as usize])
        .collect::<Vec<_>>();
    let dense = |chunk| LikelihoodMode::Dense { chunk };
    let decode = |prefill| LikelihoodMode::Decode {
        prefill,
        chunk: 512,
    };
    for (mode, first) in [
        (dense(512), 0),
        (dense(8), 0),
        (dense(1), 0),
        (dense(55), 0),
        (decode(1), 0),
        (decode(20), 19),
        (decode(56), 55),
    ] {
        let nll = likelihoods(&model, &ids, mode);
        assert_eq!(nll.len(), expected.len() - first, "{mode:?}");
        for (nll, expected) in nll.iter().zip(&expected[first..]) {
            let is_close = (nll - expected).abs() <= 1e-4 * (1.0 + expected.abs());
            assert!(is_close, "{mode:?}: {nll}, expected {expected}");
        }
    }
}

/// Dense attention that keeps what it heard in its newest step.
#[derive(Debug, Default)]
struct Listener {
    heard: Mutex<Vec<f32>>,
}

impl PagePolicy for Listener {
    fn hears_entropy(&self) -> bool {
        true
    }

    fn select(&self, _query: &Tensor<3>, _cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        *self.heard.lock().unwrap() = step.entropies(0, 0..step.starts()[0]);
        Pages::All
    }
}

#[test]
fn a_policy_hears_how_uncertain_the_model_is_from_the_prompt_on() {
    let (model, prompt) = (model(), prompt(21));
    let mut ids = prompt.clone();
    let config = GenerationConfig::new().with_max_new_tokens(4);
    ids.extend(generate(&model, &prompt, config.clone()));
    let entropy = |row: &Vec<f32>| -row.iter().map(|&log_p| log_p.exp() * log_p).sum::<f32>();
    let entropies = log_probabilities(&model, &ids);
    let entropies = entropies.iter().map(entropy).collect::<Vec<_>>();
    // The newest of 24 tokens is fed by the step that hears; 21 to 23 tokens were before that.
    let is_heard = |heard: Vec<f32>| {
        assert_eq!(heard.len(), 3);
        for (heard, expected) in heard.iter().zip(&entropies[20..23]) {
            assert!(
                (heard - expected).abs() <= 1e-4,
                "{heard}, expected {expected}"
            );
        }
    };

    let (policy, mut cache) = (Listener::default(), cache(64));
    let generator = Generator::new(&model, &mut cache, &policy, &prompt, config);
    assert_eq!(generator.unwrap().map(Result::unwrap).count(), 4);
    is_heard(policy.heard.into_inner().unwrap());

    let policy = Listener::default();
    cache.reset();
    let mode = LikelihoodMode::Decode {
        prefill: 21,
        chunk: 512,
    };
    negative_log_likelihoods(&model, &mut cache, &policy, &ids, mode, &mut |_| ()).unwrap();
    is_heard(policy.heard.into_inner().unwrap());
}

#[test]
fn ids_that_cannot_be_scored_are_refused() {
    let model = model();
    let mut cache = cache(16);
    let mut refused = |ids: &[u32], mode| {
        let nll =
            negative_log_likelihoods(&model, &mut cache, &DensePolicy, ids, mode, &mut |_| ());
        nll.unwrap_err().to_string()
    };
    let dense = LikelihoodMode::Dense { chunk: 4 };
    let decode = |prefill| LikelihoodMode::Decode {
        prefill,
        chunk: 512,
    };
    for (message, ids, mode) in [
        ("at least 2 to score, found 1", vec![1], dense),
        ("from 1 to 1 of 2 tokens, found 0", vec![1, 2], decode(0)),
        ("from 1 to 1 of 2 tokens, found 2", vec![1, 2], decode(2)),
        ("found 40 at index 1", vec![1, 40], dense),
        ("at most 16 tokens, found 17", vec![1; 18], dense),
        (
            "prefill chunk",
            vec![1, 2],
            LikelihoodMode::Dense { chunk: 0 },
        ),
    ] {
        let error = refused(&ids, mode);
        assert!(error.contains(message), "{error}");
    }
}
