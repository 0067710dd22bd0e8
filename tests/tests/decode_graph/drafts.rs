//! Drafts and the passes that verify them.

use burn::tensor::{DType, Device};
use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, PagedKvCache},
    decode::DecodeGraphConfig,
    digest::DigestKind,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    generation::{GenerationConfig, Generator, draft_graph},
    inference::InferenceLm,
    sampling::SamplingConfig,
    speculative::{LosslessConfig, LosslessGenerator},
};
use quest_burn_tests::devices::devices;

use super::{
    PAGE_SIZE, VOCAB_SIZE, alone, config, contents::assert_same_contents, prefilled, prompt,
};

const NEW_TOKENS: usize = 60;

/// A policy whose drafts are often refused.
fn lossy() -> impl PagePolicy {
    let quest = QuestConfig::kv_group()
        .with_token_budget(16)
        .with_dense_layers(0);
    quest.init().unwrap()
}

/// Merged projections, whose passes over few rows are kernels of this project.
fn model(device: &Device) -> InferenceLm {
    super::model(device).into()
}

fn cache(digest: DigestKind, storage: DigestStorage, device: &Device) -> PagedKvCache {
    config()
        .cache(PAGE_SIZE, 1, 40 + NEW_TOKENS)
        .with_digest(digest)
        .with_digest_storage(storage)
        .init(device, DType::F32)
        .unwrap()
}

fn greedy() -> GenerationConfig {
    GenerationConfig::new().with_max_new_tokens(NEW_TOKENS)
}

#[test]
fn lossless_answers_are_those_of_dense_attention_in_recorded_passes_too() {
    let _alone = alone();
    let prompt = prompt(2, 40);
    for test_device in devices() {
        let device = &test_device.device;
        let (model, quest) = (model(device), lossy());
        let mut dense = cache(DigestKind::MinMax, DigestStorage::Full, device);
        let answer = Generator::new(&model, &mut dense, &DensePolicy, &prompt, greedy());
        let expected = answer.unwrap().map(Result::unwrap).collect::<Vec<_>>();
        for (digest, storage) in [
            (DigestKind::MinMax, DigestStorage::Full),
            (DigestKind::MinMax, DigestStorage::Int8),
            (DigestKind::MeanVar, DigestStorage::Full),
            (DigestKind::default(), DigestStorage::Full),
        ] {
            for drafts in [3, 7] {
                let case = format!("{test_device}, {digest}, {storage}, {drafts}");
                let lossless = LosslessConfig::new().with_draft_tokens(drafts);
                let answer = |capture: bool| {
                    let mut cache = cache(digest, storage, device);
                    let config = greedy().with_capture(capture);
                    let mut answer = LosslessGenerator::new(
                        &model, &mut cache, &quest, &prompt, config, lossless,
                    )
                    .unwrap();
                    let ids = answer.by_ref().map(Result::unwrap).collect::<Vec<_>>();
                    let statistics = answer.statistics();
                    drop(answer);
                    (ids, statistics, cache)
                };
                let (ids, statistics, cache) = answer(true);
                assert_eq!(ids, expected, "{case}");
                assert!(statistics.accepted < statistics.drafted, "{case}");
                let (plain_ids, plain_statistics, plain) = answer(false);
                assert_eq!((ids, statistics), (plain_ids, plain_statistics), "{case}");
                assert_same_contents(&cache, &plain, &case);
                if digest == DigestKind::MinMax && storage == DigestStorage::Full {
                    // As if nothing had been drafted.
                    assert_same_contents(&cache, &dense, &case);
                }
            }
        }
    }
}

#[test]
fn sampled_drafts_do_not_depend_on_a_recording() {
    let _alone = alone();
    let prompt = prompt(2, 40);
    for test_device in devices() {
        let device = &test_device.device;
        let (model, quest) = (model(device), lossy());
        let sampling = SamplingConfig::new()
            .with_temperature(0.8)
            .with_repetition_penalty(1.1)
            .with_seed(5);
        let config = greedy().with_sampling(sampling);
        let [recorded, plain] = [true, false].map(|capture| {
            let mut cache = cache(DigestKind::MeanVar, DigestStorage::Full, device);
            let config = config.clone().with_capture(capture);
            let lossless = LosslessConfig::new().with_draft_tokens(4);
            let answer =
                LosslessGenerator::new(&model, &mut cache, &quest, &prompt, config, lossless);
            answer.unwrap().map(Result::unwrap).collect::<Vec<_>>()
        });
        assert_eq!(recorded, plain, "{test_device}");
        assert_eq!(recorded.len(), NEW_TOKENS);
    }
}

#[test]
fn one_recording_serves_many_rounds_and_is_made_anew_where_pages_run_out() {
    let _alone = alone();
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let (mut plain, newest) = prefilled(&model, &[prompt(0, 20)], device);
        let (mut cache, _) = prefilled(&model, &[prompt(0, 20)], device);
        let per_recording = 40;
        let config = DecodeGraphConfig::new().with_tokens_per_recording(per_recording);
        let mut graph = draft_graph(&model, &mut cache, &DensePolicy, 4, config.clone()).unwrap();
        let without = config.with_capture(false);
        let mut expected = draft_graph(&model, &mut plain, &DensePolicy, 4, without).unwrap();
        let mut newest = newest[0];
        let mut length = 20;
        for round in 0..40 {
            let n = round % 5;
            let mut fed = vec![newest];
            for graph in [&mut graph, &mut expected] {
                graph.reserve(n).unwrap();
                let drafts = graph.draft_most_probable(newest, n).unwrap();
                fed.truncate(1);
                fed.extend(drafts);
                graph.undo_drafts().unwrap();
                // A draft that is not the most probable.
                graph.draft((newest + 1) % VOCAB_SIZE as u32).unwrap();
                graph.verify(&fed).unwrap();
            }
            let chosen = graph.most_probable().unwrap();
            assert_eq!(chosen, expected.most_probable().unwrap(), "{test_device}");
            assert_eq!(chosen.len(), n + 1);
            // What dense attention drafts, dense attention takes.
            let following = fed[1..].iter().map(|&id| Some(id)).collect::<Vec<_>>();
            assert_eq!(chosen[..n], following, "{test_device}, round {round}");
            let kept = 1 + n / 2;
            for graph in [&mut graph, &mut expected] {
                graph.keep(kept).unwrap();
            }
            length += kept;
            newest = chosen[kept - 1].unwrap();
            assert_eq!((graph.kept(), expected.kept()), (length, length));
        }
        assert!(
            graph.recordings() <= (length - 20) / (per_recording - 5) + 1,
            "{test_device}: {graph:?}"
        );
        graph.finish(length - 1).unwrap();
        expected.finish(length - 1).unwrap();
        assert_same_contents(&cache, &plain, &test_device.name);
    }
}
