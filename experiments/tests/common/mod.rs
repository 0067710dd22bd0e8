//! Small random models that experiments run on.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::path::Path;

use burn::tensor::Device;
use quest_burn::{digest::DigestKind, policy::PolicyKind};
use quest_burn_experiments::results;
use quest_burn_models::local::LocalModel;
use quest_burn_tests::{
    checkpoint::{self, CheckpointSpec},
    tokenizer::{BYTE_VOCABULARY, write_bytes},
};
use serde_json::json;

/// A model of bytes with four layers.
pub(crate) fn subject() -> LocalModel {
    let spec = CheckpointSpec {
        vocab_size: BYTE_VOCABULARY,
        max_positions: 2048,
        ..CheckpointSpec::default()
    };
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &spec);
    write_bytes(dir.path());
    subject_of(dir.path())
}

/// The model in a folder.
pub(crate) fn subject_of(dir: &Path) -> LocalModel {
    let model = LocalModel::open(dir).unwrap().page_size(8);
    model
        .policy(PolicyKind::Dense)
        .digest(DigestKind::MinMax)
        .load(&Device::default())
        .unwrap()
}

/// What a run on [`subject`] carries.
pub(crate) fn run_info(subject: &LocalModel, experiment: &str) -> results::RunInfo {
    results::RunInfo {
        experiment: experiment.into(),
        model: results::ModelInfo {
            name: "tiny".into(),
            sha256: String::new(),
            config: subject.config().clone(),
        },
        build: results::Build {
            version: "0.0.0".into(),
            commit: None,
        },
        device: "default".into(),
        dtype: "f32".into(),
        digest: subject.digest().to_string(),
        digests: subject.digest_storage().to_string(),
        kv_cache: subject.kv_storage().to_string(),
        weights: subject.weights().to_string(),
        prefill: subject.prefill().to_string(),
        seed: 0,
        settings: json!({}),
    }
}
