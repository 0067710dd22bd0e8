//! Sequences and steps that end.

use burn::{module::Param, tensor::DType};
use quest_burn::{decode::DecodeGraphConfig, policy::DensePolicy};
use quest_burn_models::generation::decode_graph;
use quest_burn_tests::devices::devices;

use super::{
    PAGE_SIZE, PROMPTS, alone, config, contents::assert_same_contents, graph_config, ids, model,
    prefilled, prompt, uncaptured,
};

#[test]
fn a_sequence_that_has_ended_stays_as_it_is_while_the_others_go_on() {
    let _alone = alone();
    let prompts = PROMPTS.iter().enumerate().map(|(i, &n)| prompt(i, n));
    let prompts = prompts.collect::<Vec<_>>();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let (mut plain, newest) = prefilled(&model, &prompts, device);
        let expected = uncaptured(&model, &mut plain, &DensePolicy, &newest, 30, device);

        let (mut cache, newest) = prefilled(&model, &prompts, device);
        let mut graph =
            decode_graph(&model, &mut cache, &DensePolicy, &newest, graph_config()).unwrap();
        // Sequence 1 ends where its next token would open a page.
        let first = graph.run(8).unwrap();
        graph.stop(1).unwrap();
        let rest = graph.run(22).unwrap();
        assert_eq!(graph.active(), [true, false, true]);
        assert_eq!(graph.lengths(), [91, 16, 53]);
        assert!(rest[1].is_empty());
        for sequence in [0, 2] {
            let tokens = [&first[sequence][..], &rest[sequence]].concat();
            assert_eq!(tokens, expected[sequence], "{test_device}");
        }
        assert_eq!(first[1], expected[1][..8], "{test_device}");
        graph.stop(0).unwrap();
        graph.stop(2).unwrap();
        let error = graph.step().unwrap_err();
        assert_eq!(
            error.to_string(),
            "KV cache: expected at least one new token, found none"
        );
        assert!(graph.stop(3).is_err());
        drop(graph);
        for sequence in [0, 1, 2] {
            let length = [91, 16, 53][sequence];
            plain.truncate(sequence, length).unwrap();
        }
        assert_same_contents(&cache, &plain, &test_device.name);
    }
}

#[test]
fn a_full_cache_ends_the_steps_with_an_error_and_keeps_what_there_is() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let mut cache = config()
            .cache(PAGE_SIZE, 1, 3 * PAGE_SIZE)
            .init(device, DType::F32)
            .unwrap();
        let step = cache.prefill(&[20]).unwrap();
        let input = ids(&[prompt(0, 20)], device);
        model.hidden(input, &mut cache, &step, &DensePolicy);
        let mut graph = decode_graph(
            &model,
            &mut cache,
            &DensePolicy,
            &[7],
            DecodeGraphConfig::new(),
        )
        .unwrap();
        assert_eq!(graph.run(4).unwrap()[0].len(), 4);
        let error = graph.step().unwrap_err();
        assert_eq!(
            error.to_string(),
            "KV cache: expected at most 24 tokens in sequence 0, found 25"
        );
        assert_eq!(graph.lengths(), [24]);
        drop(graph);
        assert_eq!((cache.lengths(), cache.free_pages()), (&[24][..], 0));
    }
}

#[test]
fn logits_without_an_answer_are_an_error_that_names_the_sequence() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let mut model = model(device);
        let broken = model.norm.gamma.val() * f32::NAN;
        model.norm.gamma = Param::from_tensor(broken);
        let mut cache = config()
            .cache(PAGE_SIZE, 2, 64)
            .init(device, DType::F32)
            .unwrap();
        let mut graph = decode_graph(
            &model,
            &mut cache,
            &DensePolicy,
            &[7, 8],
            DecodeGraphConfig::new(),
        )
        .unwrap();
        let error = graph.step().unwrap_err();
        assert_eq!(
            error.to_string(),
            "logits of sequence 0 after 1 tokens: expected finite numbers or -inf, found none or \
             others"
        );
    }
}
