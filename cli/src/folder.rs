//! Where a model is: a path or a name of the hub that was asked for, or the model that ships with the
//! program.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use tempfile::TempDir;

/// The model in the program.
const SHIPPED: Option<Shipped> = include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// A model as files in the program.
#[allow(
    dead_code,
    reason = "made where the model was there when the program was built"
)]
struct Shipped {
    name: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

/// A folder or file with a checkpoint.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    name: String,
    path: PathBuf,
    /// Removes what was unpacked.
    unpacked: RefCell<Option<TempDir>>,
}

impl ModelFolder {
    /// What was asked for: a path that is there, or a model of the hub. Without either, the model in
    /// the program is unpacked into a folder that is gone when this value is.
    pub(crate) fn open(asked: Option<&Path>) -> anyhow::Result<Self> {
        match (asked, SHIPPED) {
            (Some(asked), _) => match on_hub(asked)? {
                Some((name, path)) => Ok(Self {
                    name,
                    path,
                    unpacked: RefCell::default(),
                }),
                None => Ok(Self {
                    name: name(asked),
                    path: asked.into(),
                    unpacked: RefCell::default(),
                }),
            },
            (None, Some(shipped)) => shipped.unpack(),
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

    /// Removes what was unpacked, once the model is loaded: a signal that ends the program leaves
    /// nothing behind then. A folder that was asked for stays.
    pub(crate) fn discard(&self) {
        self.unpacked.take();
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Shipped {
    fn unpack(&self) -> anyhow::Result<ModelFolder> {
        let folder = TempDir::with_prefix(self.name).context("a folder for the model")?;
        for (name, bytes) in self.files {
            let path = folder.path().join(name);
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        Ok(ModelFolder {
            name: self.name.to_owned(),
            path: folder.path().into(),
            unpacked: RefCell::new(Some(folder)),
        })
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
            assert_eq!((opened.name(), opened.path()), ("tiny", path.as_path()));
        }
    }

    #[test]
    fn a_model_in_the_program_becomes_a_folder_that_does_not_stay() {
        let shipped = Shipped {
            name: "shipped",
            files: &[("config.json", b"{}"), ("model.safetensors", b"weights")],
        };
        let folder = shipped.unpack().unwrap();
        assert_eq!(folder.name(), "shipped");
        let path = folder.path().to_owned();
        assert_eq!(fs::read(path.join("config.json")).unwrap(), b"{}");
        assert_eq!(
            fs::read(path.join("model.safetensors")).unwrap(),
            b"weights"
        );
        folder.discard();
        assert!(!path.exists());
        let path = shipped.unpack().unwrap().path().to_owned();
        assert!(!path.exists(), "gone with its folder");
    }
}
