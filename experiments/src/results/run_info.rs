use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use quest_burn::{
    cache::{DigestStorage, KvStorage},
    digest::DigestKind,
    inference::WeightFormat,
    policy::PrefillConfig,
};
use quest_burn_models::config::ModelConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// What a run of an experiment was made with: enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Name of the experiment.
    pub experiment: String,
    /// The model.
    pub model: ModelInfo,
    /// The program.
    pub build: Build,
    /// Where it was computed.
    pub device: String,
    /// Element type of weights and KV cache.
    pub dtype: String,
    /// What the digests in the KV cache keep of a page's keys.
    #[serde(default = "min_max_digest")]
    pub digest: String,
    /// Numbers in which the digests are read.
    #[serde(default = "full_digests")]
    pub digests: String,
    /// Numbers in which keys and values are kept.
    #[serde(default = "full_kv_cache")]
    pub kv_cache: String,
    /// Form of the weights of the layers' projections.
    #[serde(default = "full_weights")]
    pub weights: String,
    /// What the tokens of prompts attend to.
    #[serde(default = "dense_prefill")]
    pub prefill: String,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// All other settings of the experiment, as a JSON object.
    pub settings: Value,
}

/// Those of results that were written before there were others.
fn min_max_digest() -> String {
    DigestKind::MinMax.to_string()
}

/// Those of results that were written before there were others.
fn full_digests() -> String {
    DigestStorage::Full.to_string()
}

/// Those of results that were written before there were others.
fn full_kv_cache() -> String {
    KvStorage::Full.to_string()
}

/// Those of results that were written before there were others.
fn full_weights() -> String {
    WeightFormat::Full.to_string()
}

/// That of results that were written before there were others.
fn dense_prefill() -> String {
    PrefillConfig::Dense.to_string()
}

/// Which build of the program it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Version of the program.
    pub version: String,
    /// The commit, with `-dirty` where files differed from it; none where there was no repository.
    pub commit: Option<String>,
}

/// Which model it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name of the folder.
    pub name: String,
    /// SHA-256 over `config.json`, `tokenizer.json` and the weights, in the order of their names.
    pub sha256: String,
    /// The model's configuration.
    pub config: ModelConfig,
}

/// A file of the model that could not be read.
#[derive(Error, Debug)]
#[error("{}: expected a readable file of the model", path.display())]
pub struct ModelInfoError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: impl IntoIterator<Item = u8>) -> String {
    let bytes = bytes.into_iter().collect::<Vec<_>>();
    hexadecimal(Sha256::digest(bytes))
}

fn hexadecimal(digest: impl AsRef<[u8]>) -> String {
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

impl ModelInfo {
    /// Describes the model in a folder; reads all of its weights.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn of_dir(dir: &Path, name: &str, config: &ModelConfig) -> Result<Self, ModelInfoError> {
        let mut hash = Sha256::new();
        let (dir, names) = match dir.is_file() {
            // A GGUF file is all of its model.
            true => (
                dir.parent().unwrap_or(dir),
                vec![
                    dir.file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                ],
            ),
            false => (dir, files(dir)?),
        };
        for name in names {
            let path = dir.join(&name);
            let read = |source| ModelInfoError {
                path: path.clone(),
                source,
            };
            let mut file = File::open(&path).map_err(read)?;
            let bytes = file.metadata().map_err(read)?.len();
            hash.update(head(&name, bytes));
            io::copy(&mut file, &mut hash).map_err(read)?;
        }
        Ok(Self::of_hash(name, hash, config))
    }

    /// Describes a model whose files are in memory, by their names.
    pub fn of_files(name: &str, files: &[(&str, &[u8])], config: &ModelConfig) -> Self {
        let mut files = files.to_vec();
        files.retain(|(file, _)| matters(file));
        files.sort_unstable();
        let mut hash = Sha256::new();
        for (file, bytes) in files {
            hash.update(head(file, bytes.len() as u64));
            hash.update(bytes);
        }
        Self::of_hash(name, hash, config)
    }

    fn of_hash(name: &str, hash: Sha256, config: &ModelConfig) -> Self {
        Self {
            name: name.to_owned(),
            sha256: hexadecimal(hash.finalize()),
            config: config.clone(),
        }
    }
}

/// Name and length keep apart what is in different files.
fn head(name: &str, bytes: u64) -> String {
    format!("{name}\n{bytes}\n")
}

/// Whether a file makes the model what it is.
fn matters(name: &str) -> bool {
    ["config.json", "tokenizer.json"].contains(&name)
        || [".safetensors", ".gguf"]
            .iter()
            .any(|end| name.ends_with(end))
        || (name.starts_with("pytorch_model") && name.ends_with(".bin"))
}

/// Names of the files that make the model what it is.
fn files(dir: &Path) -> Result<Vec<String>, ModelInfoError> {
    let read = |source| ModelInfoError {
        path: dir.into(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let name = name.to_string_lossy().into_owned();
        if matters(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use quest_burn_tests::checkpoint::{self, CheckpointSpec};

    use super::*;

    #[test]
    fn the_hash_changes_with_the_weights_and_not_with_other_files() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &CheckpointSpec::default());
        let config = ModelConfig::from_dir(dir.path()).unwrap();
        let info = || ModelInfo::of_dir(dir.path(), "tiny", &config).unwrap();
        let first = info();
        assert_eq!(first.name, "tiny");
        assert_eq!(first.sha256.len(), 64);
        fs::write(dir.path().join("README.md"), "a card").unwrap();
        assert_eq!(info(), first);
        let spec = CheckpointSpec {
            seed: 2,
            ..CheckpointSpec::default()
        };
        checkpoint::write(dir.path(), &spec);
        assert_ne!(info().sha256, first.sha256);
    }

    #[test]
    fn files_in_memory_have_the_hash_of_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &CheckpointSpec::default());
        let config = ModelConfig::from_dir(dir.path()).unwrap();
        let [weights, fields] = ["model.safetensors", "config.json"]
            .map(|name| fs::read(dir.path().join(name)).unwrap());
        let files: [(&str, &[u8]); 3] = [
            ("model.safetensors", &weights),
            ("generation_config.json", b"{}"),
            ("config.json", &fields),
        ];
        assert_eq!(
            ModelInfo::of_files("tiny", &files, &config),
            ModelInfo::of_dir(dir.path(), "tiny", &config).unwrap()
        );
    }

    #[test]
    fn an_absent_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &CheckpointSpec::default());
        let config = ModelConfig::from_dir(dir.path()).unwrap();
        let absent = dir.path().join("absent");
        let error = ModelInfo::of_dir(&absent, "absent", &config).unwrap_err();
        assert!(error.to_string().contains("absent: expected a readable"));
    }
}
