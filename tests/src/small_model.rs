//! A small model with random weights, prompts for it, and its answers alone: what tests of engines run.

use std::sync::Arc;

use burn::tensor::{DType, Device};
use quest_burn::policy::PagePolicy;
use quest_burn_models::{generation::GenerationConfig, local::LocalModel};

use crate::checkpoint::{self, CheckpointSpec};

/// Tokens of its pages.
pub const PAGE_SIZE: usize = 8;
/// Tokens that it knows.
pub const VOCAB_SIZE: u32 = 160;

/// The model on a device, in f32.
///
/// # Panics
///
/// When its files cannot be written or read.
pub fn model(device: &Device) -> LocalModel {
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

/// What a session gives that has a model for itself, by steps that are not recorded.
///
/// # Panics
///
/// When it gives an error.
pub fn alone(
    model: &LocalModel,
    ids: &[u32],
    new_tokens: usize,
    policy: Arc<dyn PagePolicy>,
) -> Vec<u32> {
    let model = model.clone().with_policy(policy);
    let mut session = model.session().unwrap();
    let config = GenerationConfig::new()
        .with_max_new_tokens(new_tokens)
        .with_stop_ids(Some(Vec::new()))
        .with_capture(false);
    let answer = session.generate_ids(ids, config).unwrap();
    answer.collect::<Result<_, _>>().unwrap()
}

/// `n` ids that depend on `seed`.
pub fn prompt(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32)
        .map(|i| 3 + (i * i + i * (seed % 89 + 5) + seed) % (VOCAB_SIZE - 3))
        .collect()
}
