//! A small model, and answers of it alone.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;

use burn::tensor::{DType, Device};
use quest_burn::policy::{DensePolicy, PagePolicy};
use quest_burn_engine::{Engine, EngineConfig, Finished, Policy, Request};
use quest_burn_models::{generation::GenerationConfig, local::LocalModel};
use quest_burn_tests::{
    checkpoint::{self, CheckpointSpec},
    devices::devices,
};

pub(crate) const PAGE_SIZE: usize = 8;
pub(crate) const VOCAB_SIZE: u32 = 160;

/// Random weights, on the CPU.
pub(crate) fn model() -> LocalModel {
    model_on(&Device::default())
}

/// The same on each device to test.
pub(crate) fn models() -> impl Iterator<Item = LocalModel> {
    devices().into_iter().map(|device| model_on(&device.device))
}

fn model_on(device: &Device) -> LocalModel {
    let spec = CheckpointSpec {
        n_layers: 2,
        d_model: 32,
        d_ff: 48,
        max_positions: 512,
        ..CheckpointSpec::default()
    };
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &spec);
    let model = LocalModel::open(dir.path()).unwrap().page_size(PAGE_SIZE);
    model.dtype(DType::F32).load(device).unwrap()
}

/// An engine with room for so many pages.
pub(crate) fn engine(model: &LocalModel, pages: usize) -> Engine {
    engine_with(model, pages, |config| config)
}

pub(crate) fn engine_with(
    model: &LocalModel,
    pages: usize,
    change: impl FnOnce(EngineConfig) -> EngineConfig,
) -> Engine {
    let config = EngineConfig::new(pages * PAGE_SIZE);
    Engine::start(model.clone(), change(config)).unwrap()
}

/// `n` ids that depend on `seed`.
pub(crate) fn prompt(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32)
        .map(|i| 3 + (i * i + i * (seed % 89 + 5) + seed) % (VOCAB_SIZE - 3))
        .collect()
}

/// What a session gives that has the model for itself.
pub(crate) fn alone(
    model: &LocalModel,
    ids: &[u32],
    new_tokens: usize,
    policy: &Policy,
) -> Vec<u32> {
    let policy: Arc<dyn PagePolicy> = match policy {
        Policy::Dense => Arc::new(DensePolicy),
        Policy::Quest(config) => Arc::new(config.init().unwrap()),
    };
    let model = model.clone().with_policy(policy);
    let mut session = model.session().unwrap();
    let config = GenerationConfig::new()
        .with_max_new_tokens(new_tokens)
        .with_stop_ids(Some(Vec::new()));
    let answer = session.generate_ids(ids, config).unwrap();
    answer.collect::<Result<_, _>>().unwrap()
}

/// Hands requests in at once and waits for all answers.
pub(crate) fn answers(
    engine: &Engine,
    requests: impl IntoIterator<Item = Request>,
) -> Vec<Finished> {
    let submitted = requests.into_iter().map(|r| engine.submit(r).unwrap());
    let submitted = submitted.collect::<Vec<_>>();
    submitted.into_iter().map(|a| a.wait().unwrap()).collect()
}

pub(crate) fn quest() -> Policy {
    Policy::quest(3 * PAGE_SIZE)
}
