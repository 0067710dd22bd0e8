//! Prompts that leave tokens behind, against an oracle that computes one token after the other, and against dense
//! prompts.

mod dense;
mod oracle;
mod refusals;
mod session;

use std::collections::BTreeSet;

use burn::tensor::{DType, Device};
use quest_burn::{
    FixedPoint, QuestConfig,
    policy::{LazyPrefillConfig, PrefillConfig},
};
use quest_burn_models::{local::LocalModel, session::Session};
use quest_burn_tests::checkpoint::{self, CheckpointSpec};
use tempfile::TempDir;

const N_LAYERS: usize = 6;
const CHUNK: usize = 32;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let spec = CheckpointSpec {
        n_layers: N_LAYERS,
        ..CheckpointSpec::default()
    };
    checkpoint::write(folder.path(), &spec);
    folder
}

fn model(folder: &TempDir, device: &Device, prefill: PrefillConfig) -> LocalModel {
    let model = LocalModel::open(folder.path()).unwrap().dtype(DType::F32);
    let model = model.policy(QuestConfig::new().with_token_budget(1 << 20));
    model.prefill(prefill).load(device).unwrap()
}

fn rate(text: &str) -> FixedPoint {
    text.parse().unwrap()
}

/// Tokens leave after the second and the fourth layer.
fn lazy(rates: [&str; 2], revival: Option<&str>) -> LazyPrefillConfig {
    LazyPrefillConfig::new()
        .with_layers(vec![2, 4])
        .with_rates(rates.map(rate).to_vec())
        .with_revival(revival.map(rate))
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32)
        .map(|i| (i * i * 7 + i * 3 + 5) % 160)
        .collect()
}

/// Logits after a prompt and after each token decoded behind it.
fn logits(session: &mut Session, prompt: &[u32], decoded: &[u32]) -> Vec<Vec<f32>> {
    session.prefill(prompt, CHUNK, &mut |_| ()).unwrap();
    let mut logits = vec![session.logits().unwrap()];
    for &id in decoded {
        session.decode(id).unwrap();
        logits.push(session.logits().unwrap());
    }
    logits
}

/// The positions that each layer holds.
fn held(session: &Session) -> Vec<BTreeSet<usize>> {
    let stages = session.tokens_held().into_iter();
    let layers = stages.flat_map(|(layers, positions)| {
        let distinct = positions.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(
            distinct.len(),
            positions.len(),
            "computed twice: {positions:?}"
        );
        layers.map(move |_| distinct.clone())
    });
    layers.collect()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let difference = (f64::from(*found) - expected).abs();
        assert!(
            difference <= tolerance * (1.0 + expected.abs()),
            "{found} and {expected}"
        );
    }
}

fn widened(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&logit| logit.into()).collect()
}
