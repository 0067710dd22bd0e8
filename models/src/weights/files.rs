use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

use burn::store::{ModuleStore, PytorchStore, SafetensorsStore, burn_pack::Tensor};

use crate::{config::fields::Fields, error::ModelError};

/// What the files of a checkpoint are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    PyTorch,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "PyTorch",
        }
    }

    fn single(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::PyTorch => "pytorch_model.bin",
        }
    }

    fn index(self) -> String {
        format!("{}.index.json", self.single())
    }

    /// The tensors of a file, their bytes not yet read.
    ///
    /// The readers check that what they describe lies within the file.
    pub fn tensors(self, path: &Path) -> Result<Vec<Tensor>, ModelError> {
        refuse_unreadable(self, path)?;
        let garbled = |problem: String| self.garbled(path, problem);
        match self {
            Self::Safetensors => SafetensorsStore::from_file(path)
                .get_all_tensors()
                .map(|tensors| tensors.values().cloned().collect())
                .map_err(|error| garbled(error.to_string())),
            Self::PyTorch => PytorchStore::from_file(path)
                .map_indices_contiguous(false)
                .get_all_tensors()
                .map(|tensors| tensors.values().cloned().collect())
                .map_err(|error| garbled(error.to_string())),
        }
    }

    pub fn garbled(self, path: &Path, problem: impl Into<String>) -> ModelError {
        ModelError::Garbled {
            path: path.into(),
            format: self.name(),
            problem: problem.into().replace('\n', " "),
        }
    }
}

/// The files that the weights of a folder are in.
pub fn find(dir: &Path) -> Result<(Format, Vec<PathBuf>), ModelError> {
    let formats = [Format::Safetensors, Format::PyTorch];
    for format in formats {
        let single = dir.join(format.single());
        if single.is_file() {
            return Ok((format, vec![single]));
        }
        let index = dir.join(format.index());
        if index.is_file() {
            return Ok((format, shards(dir, &index)?));
        }
    }
    let names = formats.map(|format| format!("{}, {}", format.single(), format.index()));
    Err(ModelError::NoWeights {
        dir: dir.into(),
        expected: names.join(", "),
    })
}

/// The files that an index lists.
fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let fields = Fields::read(index)?;
    let map = fields.required::<BTreeMap<String, String>>("weight_map")?;
    let shards = map.into_values().collect::<BTreeSet<_>>();
    if shards.is_empty() {
        return Err(fields.invalid(
            "weight_map",
            "expected at least one tensor, found none".into(),
        ));
    }
    let path_of = |shard: String| {
        let is_inside = Path::new(&shard)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !is_inside {
            let problem = format!("expected files inside the folder, found `{shard}`");
            return Err(fields.invalid("weight_map", problem));
        }
        let path = dir.join(&shard);
        if !path.is_file() {
            return Err(ModelError::MissingShard {
                index: index.into(),
                shard,
            });
        }
        Ok(path)
    };
    shards.into_iter().map(path_of).collect()
}

/// Cases whose messages from the readers would not say what is wrong.
fn refuse_unreadable(format: Format, path: &Path) -> Result<(), ModelError> {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/";
    let read = |source| ModelError::Read {
        path: path.into(),
        source,
    };
    let mut start = Vec::new();
    let file = File::open(path).map_err(read)?;
    file.take(POINTER.len() as u64)
        .read_to_end(&mut start)
        .map_err(read)?;
    if start.is_empty() {
        return Err(format.garbled(path, "it is empty"));
    }
    if start == POINTER {
        return Err(format.garbled(path, "it is a Git LFS pointer to the weights"));
    }
    Ok(())
}
