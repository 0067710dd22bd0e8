//! The golden fixtures on every device: what Hugging Face transformers computed, to 1e-4 (with TF32
//! on CUDA, less exactly).

use burn::tensor::DType;
use quest_burn::QuestConfig;
use quest_burn_models::{
    generation::GenerationConfig, local::LocalModel, speculative::LosslessConfig,
};
use quest_burn_tests::{
    arrays::{assert_close, assert_mostly_close},
    devices::devices,
    fixtures::{self, Fixture},
    loaded::Loaded,
    naive,
};

const TOLERANCE: f64 = 1e-4;

fn for_each_fixture(test: impl Fn(&Fixture, &Loaded, f64, &str)) {
    for fixture in fixtures::all() {
        for device in devices() {
            let loaded = Loaded::new(&fixture.dir, &device.device, DType::F32);
            let context = format!("{} on {device}", fixture.name);
            // A likelihood adds up what rounding to TF32 does to every product of the prompt.
            let tolerance = device.tolerance_of_sums(TOLERANCE);
            test(&fixture, &loaded, tolerance, &context);
        }
    }
}

#[test]
fn dense_likelihoods_match_at_every_position() {
    for_each_fixture(|fixture, loaded, tolerance, context| {
        let golden = &fixture.golden;
        let found = loaded.dense_nlls(&golden.ids);
        assert_close(&found, &golden.dense_nll, tolerance, context);
    });
}

#[test]
fn greedy_ids_are_equal() {
    for_each_fixture(|fixture, loaded, _, context| {
        let golden = &fixture.golden;
        let prompt = &golden.ids[..golden.greedy_prompt_len];
        let found = loaded.greedy(prompt, golden.greedy.len());
        assert_eq!(found, golden.greedy, "{context}");
    });
}

#[test]
fn lossless_answers_are_those_of_dense_attention() {
    for fixture in fixtures::all() {
        let golden = &fixture.golden;
        let prompt = &golden.ids[..golden.greedy_prompt_len];
        for device in devices() {
            let quest = QuestConfig::new()
                .with_token_budget(16)
                .with_dense_layers(0);
            let model = LocalModel::open(&fixture.dir).unwrap();
            let model = model.page_size(8).policy(quest).dtype(DType::F32);
            let model = model.load(&device.device).unwrap();
            for draft_tokens in [2, 7, 20] {
                let mut session = model.session().unwrap();
                let lossless = LosslessConfig::new().with_draft_tokens(draft_tokens);
                session.set_lossless(Some(lossless)).unwrap();
                let config = GenerationConfig::new()
                    .with_max_new_tokens(golden.greedy.len())
                    .with_stop_ids(Some(Vec::new()));
                let found = session.generate_ids(prompt, config).unwrap();
                let found = found.map(Result::unwrap).collect::<Vec<_>>();
                let context = format!("{} on {device}, {draft_tokens}", fixture.name);
                assert_eq!(found, golden.greedy, "{context}");
            }
        }
    }
}

#[test]
fn quest_likelihoods_match_where_the_same_pages_are_chosen() {
    for_each_fixture(|fixture, loaded, tolerance, context| {
        let golden = &fixture.golden;
        for (list, expected) in &golden.quest {
            let quest = golden.quest_config(list);
            let found = loaded.quest_nlls(&golden.ids, golden.prefill, &quest, golden.page_size);
            assert_mostly_close(&found, expected, tolerance, &format!("{context}, {list}"));
        }
    });
}

/// The oracle that other tests trust is itself held against the reference.
#[test]
fn the_naive_model_matches_too() {
    for fixture in fixtures::all() {
        let model = naive::Model::load(&fixture.dir);
        let golden = &fixture.golden;
        let found = model.dense_nlls(&golden.ids);
        assert_close(&found, &golden.dense_nll, TOLERANCE, &fixture.name);
        for (list, expected) in &golden.quest {
            let quest = golden.quest_config(list);
            let found = model.quest_nlls(&golden.ids, golden.prefill, &quest, golden.page_size);
            let context = format!("{}, {list}", fixture.name);
            assert_mostly_close(&found, expected, TOLERANCE, &context);
        }
    }
}
