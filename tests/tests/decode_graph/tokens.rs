//! Many steps of every policy, with and without a recording.

use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, KvStorage},
    decode::DecodeGraph,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::generation::decode_graph;
use quest_burn_tests::devices::{TestDevice, devices};

use super::{
    PAGE_SIZE, PER_RECORDING, PROMPTS, STEPS, alone, contents::assert_same_contents, graph_config,
    kept_choices::reuse, model, prefilled_with, prompt, uncaptured,
};

/// How digests and rows are stored.
type Storages = (DigestStorage, KvStorage);

/// Dense attention, and Quest with a list per KV head and per query head, both with more pages
/// than the budget from early on, with digests and rows of either form.
fn policies() -> Vec<(&'static str, Box<dyn PagePolicy>, Storages)> {
    let full = (DigestStorage::Full, KvStorage::Full);
    let int8 = (DigestStorage::Int8, KvStorage::Full);
    let all_int8 = (DigestStorage::Int8, KvStorage::Int8);
    let quest = |config: QuestConfig| -> Box<dyn PagePolicy> {
        let config = config.with_token_budget(5 * PAGE_SIZE).with_dense_layers(1);
        Box::new(config.init().unwrap())
    };
    vec![
        ("dense", Box::new(DensePolicy), full),
        ("kv-group", quest(QuestConfig::kv_group()), full),
        ("kernels", quest(QuestConfig::kernels()), full),
        ("accuracy-code", quest(QuestConfig::accuracy_code()), full),
        ("kv-group", quest(QuestConfig::kv_group()), int8),
        ("kernels", quest(QuestConfig::kernels()), int8),
        ("dense", Box::new(DensePolicy), all_int8),
        ("kv-group", quest(QuestConfig::kv_group()), all_int8),
        ("reuse", reuse("every=4", 5), full),
        ("reuse of two layers", reuse("every=7,layers=2", 5), full),
        // The first recording has room for no more pages than the budget, and reads all.
        (
            "reuse beyond the first recording",
            reuse("every=7", 20),
            full,
        ),
        // A budget without room for a page to come.
        ("reuse of two pages", reuse("every=12", 2), int8),
    ]
}

/// Whether a device records: CubeCL ones do.
pub(crate) fn records(device: &TestDevice) -> bool {
    !matches!(device.name.as_str(), "flex" | "ndarray")
}

/// Whether so many steps were recorded, where the device records.
pub(crate) fn assert_recorded(graph: &DecodeGraph, device: &TestDevice, steps: usize) {
    println!("{device}: {graph:?}");
    if records(device) {
        assert!(graph.is_hardware(), "{graph:?}");
        assert!(graph.recordings() > steps / PER_RECORDING, "{graph:?}");
    }
}

fn assert_tokens_are_those_without_a_recording(prompts: &[Vec<u32>]) {
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        for (name, policy, stored) in policies() {
            let (digests, rows) = stored;
            let case = format!("{test_device}, {name}, {digests} digests, {rows} rows");
            let policy = policy.as_ref();
            let (mut plain, newest) = prefilled_with(stored, &model, prompts, device);
            let expected = uncaptured(&model, &mut plain, policy, &newest, STEPS, device);

            let (mut cache, newest) = prefilled_with(stored, &model, prompts, device);
            let mut graph =
                decode_graph(&model, &mut cache, policy, &newest, graph_config()).unwrap();
            let mut tokens = vec![Vec::new(); prompts.len()];
            // One by one, then several at a time, more than the device keeps for the host.
            for n in [1, 1, 1, 150, 3, 64, STEPS - 220] {
                for (tokens, new) in tokens.iter_mut().zip(graph.run(n).unwrap()) {
                    assert_eq!(new.len(), n);
                    tokens.extend(new);
                }
            }
            assert_recorded(&graph, &test_device, STEPS);
            drop(graph);
            for (sequence, (tokens, expected)) in tokens.iter().zip(&expected).enumerate() {
                let distinct = expected.iter().collect::<std::collections::BTreeSet<_>>();
                assert!(distinct.len() > 20, "{case}: {} tokens", distinct.len());
                let differs = tokens.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{case}: sequence {sequence}");
            }
            // A channel in the middle of two steps may be rounded to either.
            if rows == KvStorage::Full {
                assert_same_contents(&cache, &plain, &case);
            }
        }
    }
}

#[test]
fn tokens_of_one_sequence_are_those_without_a_recording() {
    let _alone = alone();
    assert_tokens_are_those_without_a_recording(&[prompt(0, PROMPTS[0])]);
}

#[test]
fn tokens_of_a_ragged_batch_are_those_without_a_recording() {
    let _alone = alone();
    let prompts = PROMPTS.iter().enumerate().map(|(i, &n)| prompt(i, n));
    assert_tokens_are_those_without_a_recording(&prompts.collect::<Vec<_>>());
}

#[test]
fn int8_digests_change_nothing_where_the_budget_covers_the_context() {
    let _alone = alone();
    let prompts = [prompt(0, PROMPTS[0]), prompt(1, PROMPTS[2])];
    for test_device in devices() {
        let device = &test_device.device;
        let model = model(device);
        let quest = QuestConfig::kv_group();
        let policy = quest.with_dense_layers(0).init().unwrap();
        let [full, int8] = DigestStorage::ALL.map(|digests| {
            let (mut cache, newest) =
                prefilled_with((digests, KvStorage::Full), &model, &prompts, device);
            assert_eq!(
                cache.layer(0).int8_digests().is_some(),
                digests == DigestStorage::Int8
            );
            let config = graph_config();
            let mut graph = decode_graph(&model, &mut cache, &policy, &newest, config).unwrap();
            let tokens = graph.run(40).unwrap();
            (tokens, graph.logits().unwrap())
        });
        assert_eq!(full, int8, "{test_device}");
    }
}
