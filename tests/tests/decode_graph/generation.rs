//! Tokens that the caller chooses, and tokens that a generator does.

use burn::tensor::{DType, Device};
use quest_burn::{
    QuestConfig,
    cache::PagedKvCache,
    decode::{DecodeError, DecodeGraphConfig},
    policy::DensePolicy,
};
use quest_burn_models::{
    generation::{GenerationConfig, Generator, decode_graph},
    sampling::SamplingConfig,
};
use quest_burn_tests::devices::devices;

use super::{
    PAGE_SIZE, VOCAB_SIZE, alone, argmax, config, contents::assert_same_contents, floats, ids,
    model, prefilled, prompt,
};

#[test]
fn tokens_that_are_fed_take_the_place_of_the_most_probable() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let prompts = [prompt(0, 20)];
        let (mut plain, newest) = prefilled(&model, &prompts, device);
        let (mut cache, _) = prefilled(&model, &prompts, device);
        let config = DecodeGraphConfig::new().with_tokens_per_recording(5);
        let mut graph = decode_graph(&model, &mut cache, &DensePolicy, &newest, config).unwrap();
        assert_eq!(graph.logits().unwrap(), None);
        let mut token = newest[0];
        for i in 0..13 {
            let step = plain.decode().unwrap();
            let input = ids(&[vec![token]], device);
            let hidden = model.hidden(input, &mut plain, &step, &DensePolicy);
            let expected = floats(model.logits(hidden));
            graph.advance().unwrap();
            let logits = graph.logits().unwrap().unwrap().remove(0);
            for (found, expected) in logits.iter().zip(&expected) {
                let is_close = (found - expected).abs() <= 1e-4 * (1.0 + expected.abs());
                assert!(is_close, "{test_device}, step {i}: {found}, {expected}");
            }
            token = (argmax(&expected) + 1 + i) % VOCAB_SIZE as u32;
            graph.feed(&[token]).unwrap();
        }
        let error = graph.feed(&[VOCAB_SIZE as u32]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokens: expected ids below the vocabulary size 197, found 197 for sequence 0"
        );
        let error = graph.feed(&[1, 2]).unwrap_err();
        assert!(matches!(error, DecodeError::Tokens { batch: 1, found: 2 }));
        drop(graph);
        assert_same_contents(&cache, &plain, &test_device.name);
    }
}

#[test]
fn generated_tokens_do_not_depend_on_a_recording() {
    let _alone = alone();
    let prompt = prompt(2, 40);
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let quest = QuestConfig::kv_group()
            .with_token_budget(48)
            .init()
            .unwrap();
        let generate = |config: GenerationConfig| {
            let mut cache = config_cache(device);
            let generator = Generator::new(&model, &mut cache, &quest, &prompt, config);
            let ids = generator.unwrap().map(Result::unwrap).collect::<Vec<_>>();
            (ids, cache)
        };
        let greedy = GenerationConfig::new().with_max_new_tokens(60);
        let sampled = greedy.clone().with_sampling(
            SamplingConfig::new()
                .with_temperature(0.8)
                .with_top_p(0.95)
                .with_repetition_penalty(1.1)
                .with_seed(3),
        );
        let (all, _) = generate(greedy.clone());
        let stopped = greedy.clone().with_stop_ids(Some(vec![all[33]]));
        for config in [greedy, sampled, stopped] {
            let (expected, plain) = generate(config.clone().with_capture(false));
            let (ids, cache) = generate(config);
            assert_eq!(ids, expected, "{test_device}");
            assert_eq!(cache.lengths(), [40 + ids.len() - 1], "{test_device}");
            assert_same_contents(&cache, &plain, &test_device.name);
        }
    }
}

fn config_cache(device: &Device) -> PagedKvCache {
    config()
        .cache(PAGE_SIZE, 1, 100)
        .init(device, DType::F32)
        .unwrap()
}
