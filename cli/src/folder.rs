//! Where a model is: a path or a name of the hub that was asked for, or the model that ships with the
//! program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use quest_burn_experiments::results::ModelInfo;
use quest_burn_models::{
    config::ModelConfig,
    local::{LocalModel, LocalModelBuilder},
    source::{self, CheckpointSource, MemoryCheckpoint},
};

/// The model in the program.
const SHIPPED: Option<Shipped> = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// A model as files in the program. They are read where they are: nothing is written that would be left behind.
#[derive(Clone, Copy)]
#[allow(
    dead_code,
    reason = "made where the model was there when the program was built"
)]
struct Shipped {
    name: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

/// A folder or file with a checkpoint, or the one in the program.
pub(crate) struct ModelFolder {
    name: String,
    place: Place,
}

enum Place {
    Path(PathBuf),
    Program(Shipped),
}

impl ModelFolder {
    /// What was asked for: a path that is there, or a model of the hub; without either, the model in the program.
    pub(crate) fn open(asked: Option<&Path>) -> anyhow::Result<Self> {
        match (asked, SHIPPED) {
            (Some(asked), _) => {
                let of_hub = on_hub(asked)?;
                let (name, path) = of_hub.unwrap_or_else(|| (name(asked), asked.into()));
                Ok(Self {
                    name,
                    place: Place::Path(path),
                })
            }
            (None, Some(shipped)) => Ok(shipped.into()),
            (None, None) => Err(anyhow!(
                "model: expected `--model DIR`, found none, and this build carries no model (it \
                 takes assets/quest-passkey of the repository with the feature `shipped-model`)"
            )),
        }
    }

    /// Name of the folder.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether files may be beside it.
    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self.place, Place::Path(_))
    }

    /// The checkpoint, whose names and headers are read.
    pub(crate) fn source(&self) -> anyhow::Result<Box<dyn CheckpointSource>> {
        Ok(match &self.place {
            Place::Path(path) => source::open(path)?,
            Place::Program(shipped) => Box::new(MemoryCheckpoint::new(shipped.name, shipped.files)),
        })
    }

    /// Everything of the checkpoint but the weights.
    pub(crate) fn model(&self) -> anyhow::Result<LocalModelBuilder> {
        Ok(LocalModel::of_source(self.source()?)?)
    }

    /// What tells it from other models; reads all of its weights.
    pub(crate) fn info(&self, config: &ModelConfig) -> anyhow::Result<ModelInfo> {
        Ok(match &self.place {
            Place::Path(path) => ModelInfo::of_dir(path, &self.name, config)?,
            Place::Program(shipped) => ModelInfo::of_files(&self.name, shipped.files, config),
        })
    }
}

impl From<Shipped> for ModelFolder {
    fn from(shipped: Shipped) -> Self {
        Self {
            name: shipped.name.to_owned(),
            place: Place::Program(shipped),
        }
    }
}

/// The name and the place of a model of the hub. What is there as a path is no name of the hub.
#[cfg(feature = "hub")]
fn on_hub(asked: &Path) -> anyhow::Result<Option<(String, PathBuf)>> {
    use crate::hub::{self, HubName, Settings};

    let name = asked.to_str().filter(|_| !asked.exists());
    let Some(name) = name.and_then(HubName::parse) else {
        return Ok(None);
    };
    let path = hub::fetch(&name, &Settings::from_env())?;
    Ok(Some((name.to_string(), path)))
}

#[cfg(not(feature = "hub"))]
fn on_hub(_asked: &Path) -> anyhow::Result<Option<(String, PathBuf)>> {
    Ok(None)
}

/// The last part of a path, also of `.` and `models/`.
fn name(path: &Path) -> String {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tiny");
        fs::create_dir(&folder).unwrap();
        for path in [folder.clone(), folder.join("."), folder.join("../tiny/")] {
            let opened = ModelFolder::open(Some(&path)).unwrap();
            assert_eq!(opened.name(), "tiny");
            assert!(opened.is_on_disk());
        }
    }

    #[test]
    fn a_model_in_the_program_is_read_where_it_is() {
        let folder = ModelFolder::from(Shipped {
            name: "shipped",
            files: &[("config.json", b"[]")],
        });
        assert_eq!(folder.name(), "shipped");
        assert!(!folder.is_on_disk());
        let source = folder.source().unwrap();
        assert!(!source.path().exists());
        let error = source.config().unwrap_err().to_string();
        assert!(error.contains("shipped/config.json"), "{error}");
    }
}
