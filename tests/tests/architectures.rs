//! A tiny model of each architecture against what Hugging Face transformers computed with it, in both forms
//! of a model and on every device: sliding windows, experts, Gemma's norms.

use std::sync::{Arc, Mutex};

use burn::tensor::{DType, Int, Tensor, TensorData, activation::log_softmax};
use quest_burn::{
    QuestConfig,
    cache::{LayerCache, Step},
    inference::WeightFormat,
    policy::{PagePolicy, Pages},
};
use quest_burn_models::{config::ModelConfig, weights};
use quest_burn_tests::{
    arrays::assert_close,
    devices::devices,
    fixtures::{self, Fixture},
    loaded::Loaded,
};

const TOLERANCE: f64 = 1e-4;

fn for_each_model(test: impl Fn(&Fixture, &Loaded, f64, &str)) {
    for fixture in fixtures::architectures() {
        for device in devices() {
            let (dir, at) = (&fixture.dir, &device.device);
            let tolerance = device.tolerance_of_sums(TOLERANCE);
            let trained = Loaded::new(dir, at, DType::F32);
            let merged = Loaded::stored(dir, at, DType::F32);
            for (form, loaded) in [("by its names", trained), ("merged", merged)] {
                let context = format!("{} {form} on {device}", fixture.name);
                test(&fixture, &loaded, tolerance, &context);
            }
        }
    }
}

#[test]
fn likelihoods_match_at_every_position() {
    for_each_model(|fixture, loaded, tolerance, context| {
        let golden = &fixture.golden;
        let found = loaded.dense_nlls(&golden.ids);
        assert_close(&found, &golden.dense_nll, tolerance, context);
    });
}

#[test]
fn tokens_decoded_one_by_one_match_too() {
    for_each_model(|fixture, loaded, tolerance, context| {
        let golden = &fixture.golden;
        for page_size in [16, 8] {
            let found = loaded.dense_decode_nlls(&golden.ids, golden.prefill, page_size);
            let expected = &golden.dense_nll[golden.prefill - 1..];
            assert_close(&found, expected, tolerance, context);
        }
    });
}

#[test]
fn greedy_ids_are_equal() {
    for_each_model(|fixture, loaded, _, context| {
        let golden = &fixture.golden;
        let prompt = &golden.ids[..golden.greedy_prompt_len];
        let found = loaded.greedy(prompt, golden.greedy.len());
        assert_eq!(found, golden.greedy, "{context}");
    });
}

#[test]
fn whole_sequences_without_a_cache_match_too() {
    for fixture in fixtures::architectures() {
        for device in devices() {
            let config = ModelConfig::from_dir(&fixture.dir).unwrap();
            let at = &device.device;
            let model = weights::load(&fixture.dir, &config, at, DType::F32, &mut |_| ()).unwrap();
            let ids = &fixture.golden.ids;
            let as_ints = ids.iter().map(|id| *id as i32).collect::<Vec<_>>();
            let row = Tensor::<2, Int>::from_data(TensorData::new(as_ints, [1, ids.len()]), at);
            let logs = log_softmax(model.forward(row), 2).into_data_as::<f32>();
            let logs = logs.try_to_vec::<f32>().unwrap();
            let logs = logs.chunks(config.vocab_size).zip(&ids[1..]);
            let found = logs.map(|(logs, next)| -f64::from(logs[*next as usize]));
            let context = format!("{} on {device}", fixture.name);
            let tolerance = device.tolerance_of_sums(TOLERANCE);
            let found = found.collect::<Vec<_>>();
            assert_close(&found, &fixture.golden.dense_nll, tolerance, &context);
        }
    }
}

/// A policy that notes the layers that it is asked for.
#[derive(Debug)]
struct Noted {
    policy: Box<dyn PagePolicy>,
    layers: Mutex<Vec<usize>>,
}

impl PagePolicy for Noted {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        self.layers.lock().unwrap().push(cache.index());
        self.policy.select(query, cache, step, scale)
    }
}

#[test]
fn a_policy_chooses_in_layers_without_a_window_only() {
    for fixture in fixtures::architectures() {
        let config = ModelConfig::from_dir(&fixture.dir).unwrap();
        let device = burn::tensor::Device::default();
        let loaded = Loaded::for_inference(&fixture.dir, &device, DType::F32, WeightFormat::Full);
        let golden = &fixture.golden;
        let windows = config.blocks.windows;
        let is_global = |layer: &usize| !windows.as_ref().is_some_and(|w| w.has(*layer));
        let global = (0..config.n_layers).filter(is_global).collect::<Vec<_>>();
        let nlls = |budget| {
            let quest = QuestConfig::kv_group().with_dense_layers(0);
            let quest = quest.with_token_budget(budget);
            let policy = Arc::new(Noted {
                policy: Box::new(quest.init().unwrap()),
                layers: Mutex::default(),
            });
            let found = loaded.decode_nlls(&golden.ids, golden.prefill, 8, policy.clone());
            let mut layers = policy.layers.lock().unwrap().clone();
            layers.sort_unstable();
            layers.dedup();
            assert_eq!(layers, global, "{}", fixture.name);
            found
        };
        let expected = &golden.dense_nll[golden.prefill - 1..];
        let covering = nlls(256);
        assert_close(&covering, expected, TOLERANCE, &fixture.name);
        let is_equal = nlls(16) == covering;
        assert_eq!(is_equal, global.is_empty(), "{}", fixture.name);
    }
}

#[test]
fn weights_in_few_bits_stay_close() {
    for fixture in fixtures::architectures() {
        let golden = &fixture.golden;
        let mean = |nlls: &[f64]| nlls.iter().sum::<f64>() / nlls.len() as f64;
        let device = burn::tensor::Device::default();
        let int8 = WeightFormat::Int8;
        let config = ModelConfig::from_dir(&fixture.dir).unwrap();
        if let Err(error) = config.weight_bytes(DType::F32, int8) {
            // Experts of 24 channels make no groups.
            assert_eq!(fixture.name, "llama4", "{error}");
            continue;
        }
        let loaded = Loaded::for_inference(&fixture.dir, &device, DType::F32, int8);
        let found = loaded.dense_nlls(&golden.ids);
        let difference = (mean(&found) - mean(&golden.dense_nll)).abs();
        assert!(difference < 0.05, "{}: {difference}", fixture.name);
        assert_ne!(found, golden.dense_nll, "{}", fixture.name);
    }
}
