//! The golden fixtures on every device: what Hugging Face transformers computed, to 1e-4 (with TF32
//! on CUDA, less exactly).

use burn::tensor::DType;
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
