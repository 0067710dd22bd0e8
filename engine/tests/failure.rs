//! A model that fails ends the engine, and nobody waits for ever; one that cannot be served starts none.

mod common;

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use burn::tensor::{DType, Device, Int, Tensor};
use common::*;
use quest_burn::{
    cache::{PagedKvCache, Step},
    policy::{LazyPrefillConfig, PagePolicy, PrefillConfig, QuestPrefillConfig},
};
use quest_burn_engine::{Engine, EngineConfig, Request};
use quest_burn_models::{local::LocalModel, model::LanguageModel};

/// Panics in one of its passes.
#[derive(Debug)]
struct Fails {
    model: LocalModel,
    passes_left: AtomicUsize,
}

impl LanguageModel for Fails {
    fn vocab_size(&self) -> usize {
        self.model.model().vocab_size()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn dtype(&self) -> DType {
        self.model.dtype()
    }

    fn is_capturable(&self) -> bool {
        false
    }

    fn embedded(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.model().embedded(ids)
    }

    fn through(
        &self,
        hidden: Tensor<3>,
        layers: Range<usize>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let model = self.model.model();
        model.through(hidden, layers, cache, step, policy)
    }

    fn normed(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.model.model().normed(hidden)
    }

    fn hidden(
        &self,
        ids: Tensor<2, Int>,
        cache: &mut PagedKvCache,
        step: &Step,
        policy: &dyn PagePolicy,
    ) -> Tensor<3> {
        let left = self.passes_left.fetch_sub(1, Ordering::Relaxed);
        assert!(left > 0, "out of passes");
        self.model.model().hidden(ids, cache, step, policy)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.model.model().logits(hidden)
    }
}

#[test]
fn a_model_that_panics_fails_what_is_there_and_what_comes() {
    let model = model();
    let fails = Fails {
        model: model.clone(),
        passes_left: AtomicUsize::new(5),
    };
    let fails = LocalModel::new(model.config().clone(), fails).with_page_size(PAGE_SIZE);
    let engine = engine(&fails, 100);
    let short = engine.submit(Request::new(prompt(9, 1), 1)).unwrap();
    assert_eq!(short.wait().unwrap().tokens.len(), 1);
    let long = engine.submit(Request::new(prompt(9, 1), 90)).unwrap();
    let error = long.wait().unwrap_err();
    assert_eq!(error, "the model's pass panicked: out of passes");
    assert!(!engine.is_running());
    let error = engine.submit(Request::new(prompt(9, 1), 1)).unwrap_err();
    assert_eq!(error.to_string(), "the engine has ended");
    engine.shutdown();
}

#[test]
fn prompts_that_an_engine_does_not_feed_are_refused() {
    for prefill in [
        PrefillConfig::Quest(QuestPrefillConfig::new()),
        PrefillConfig::Lazy(LazyPrefillConfig::new()),
    ] {
        let model = model().with_prefill(prefill.clone());
        let error = Engine::start(model, EngineConfig::new(100)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("prompts of the engine: expected dense ones, found {prefill}")
        );
    }
}
