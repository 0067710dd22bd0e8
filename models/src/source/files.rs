use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use burn::store::{
    ModuleStore, PytorchStore, SafetensorsStore,
    burn_pack::{Reader, Tensor},
};
use serde::Deserialize;
use serde_json::Value;

use super::{SourceTensor, entries, lfs};
use crate::{config::fields::Fields, error::ModelError};

/// How files of PyTorch begin, a ZIP archive and a pickle.
const ARCHIVE: &[u8] = b"PK\x03\x04";
const PICKLE: &[u8] = b"\x80\x02";
const GGUF: &[u8] = b"GGUF";

/// What the files of a folder's weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Safetensors,
    PyTorch,
    Burnpack,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::PyTorch => "PyTorch",
            Self::Burnpack => "burnpack",
        }
    }

    fn single(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::PyTorch => "pytorch_model.bin",
            Self::Burnpack => "model.bpk",
        }
    }

    /// The file that lists several; a burnpack is one.
    fn index(self) -> Option<String> {
        match self {
            Self::Safetensors | Self::PyTorch => Some(format!("{}.index.json", self.single())),
            Self::Burnpack => None,
        }
    }

    /// The files that say where weights are.
    fn names(self) -> impl Iterator<Item = String> {
        [self.single().to_owned()].into_iter().chain(self.index())
    }

    /// The tensors of a file, their bytes not yet read.
    ///
    /// The readers check that what they describe lies within the file.
    pub(super) fn tensors(self, path: &Path) -> Result<Vec<SourceTensor>, ModelError> {
        self.refuse_unreadable(path)?;
        let tensors = match self {
            Self::Safetensors => SafetensorsStore::from_file(path)
                .get_all_tensors()
                .map(|tensors| tensors.values().cloned().collect::<Vec<_>>())
                .map_err(|error| {
                    unsupported_dtype(path).unwrap_or_else(|| self.garbled(path, error.to_string()))
                })?,
            Self::PyTorch => PytorchStore::from_file(path)
                .map_indices_contiguous(false)
                .get_all_tensors()
                .map(|tensors| tensors.values().cloned().collect())
                .map_err(|error| self.garbled(path, error.to_string()))?,
            Self::Burnpack => Reader::from_file_exact(path)
                .and_then(Reader::into_tensors)
                .map_err(|error| self.garbled(path, error.to_string()))?,
        };
        let stored = |tensor: Tensor| SourceTensor::plain(tensor, path, self.name());
        Ok(tensors.into_iter().map(stored).collect())
    }

    fn garbled(self, path: &Path, problem: impl Into<String>) -> ModelError {
        ModelError::garbled(path, self.name(), problem)
    }

    /// Cases whose messages from the readers would not say what is wrong.
    fn refuse_unreadable(self, path: &Path) -> Result<(), ModelError> {
        let start = lfs::start(path, 4)?;
        if start.is_empty() {
            return Err(self.garbled(path, "it is empty"));
        }
        if lfs::is_pointer(path)? {
            return Err(self.garbled(path, "it is a Git LFS pointer to the weights"));
        }
        let is_pytorch = start.starts_with(ARCHIVE) || start.starts_with(PICKLE);
        let other = match self {
            _ if start == GGUF => "a GGUF file",
            Self::Safetensors if is_pytorch => "a PyTorch file (its name is pytorch_model.bin)",
            _ => return Ok(()),
        };
        Err(self.garbled(path, format!("it is {other}")))
    }
}

/// The first tensor of a safetensors file with a dtype that Burn does not have, as an error.
fn unsupported_dtype(path: &Path) -> Option<ModelError> {
    #[derive(Deserialize)]
    struct Entry {
        dtype: String,
    }
    const MAX_HEADER: usize = 100 << 20;
    const KNOWN: [&str; 14] = [
        "BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "U32", "I32", "F32", "U64", "I64", "F64",
        "C64",
    ];
    let length = lfs::start(path, 8).ok()?;
    let length = u64::from_le_bytes(length.try_into().ok()?);
    let length = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER)?;
    let header = lfs::start(path, 8 + length).ok()?;
    let header = serde_json::from_slice::<BTreeMap<String, Value>>(header.get(8..)?).ok()?;
    let dtypes = header.into_iter().filter_map(|(name, entry)| {
        let entry = serde_json::from_value::<Entry>(entry).ok()?;
        Some((name, entry.dtype))
    });
    let (name, dtype) = dtypes
        .into_iter()
        .find(|(_, dtype)| !KNOWN.contains(&dtype.as_str()))?;
    Some(ModelError::TensorType {
        path: path.into(),
        name,
        found: dtype,
        supported: "F64, F32, F16, BF16; GPTQ and AWQ in 4 and 8 bits".into(),
    })
}

/// The files that the weights of a folder are in.
pub(super) fn find(dir: &Path) -> Result<(Format, Vec<PathBuf>), ModelError> {
    let formats = [Format::Safetensors, Format::PyTorch, Format::Burnpack];
    for format in formats {
        let single = dir.join(format.single());
        if single.is_file() {
            return Ok((format, vec![single]));
        }
        let index = format.index().map(|index| dir.join(index));
        if let Some(index) = index.filter(|index| index.is_file()) {
            return Ok((format, shards(dir, &index)?));
        }
    }
    let names = formats.into_iter().flat_map(Format::names);
    let names = names.collect::<Vec<_>>();
    Err(ModelError::NoWeights {
        dir: dir.into(),
        expected: names.join(", "),
        found: others(dir)?,
    })
}

/// Files that look like weights and are none that are read.
fn others(dir: &Path) -> Result<String, ModelError> {
    let is_weights = |name: &str| {
        let ends = [
            ".safetensors",
            ".bin",
            ".pt",
            ".pth",
            ".gguf",
            ".bpk",
            ".incomplete",
        ];
        ends.iter().any(|end| name.ends_with(end))
    };
    let names = entries(dir)?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        is_weights(&name).then_some(name)
    });
    let names = names.take(5).collect::<Vec<_>>();
    Ok(match names.is_empty() {
        true => "none".into(),
        false => names.join(", "),
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

/// Whether a file is GGUF by its name or its first bytes.
pub(super) fn is_gguf(path: &Path) -> Result<bool, ModelError> {
    Ok(has_gguf_name(path) || lfs::start(path, GGUF.len())? == GGUF)
}

fn has_gguf_name(path: &Path) -> bool {
    let extension = path.extension();
    extension.is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The GGUF file of a folder without other weights. Of a model in shards it is the first one.
pub(super) fn only_gguf(dir: &Path) -> Result<Option<PathBuf>, ModelError> {
    let weights = [Format::Safetensors, Format::PyTorch, Format::Burnpack];
    let mut names = weights.into_iter().flat_map(Format::names);
    if names.any(|name| dir.join(name).is_file()) {
        return Ok(None);
    }
    let is_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Shards behind the first, and the image part of models that see.
        has_gguf_name(path)
            && !name.starts_with("mmproj")
            && crate::gguf::shard_number(path).is_none_or(|number| number == 1)
    };
    let mut models = entries(dir)?;
    models.retain(is_model);
    match &models[..] {
        [] => Ok(None),
        [only] => Ok(Some(only.clone())),
        several => {
            let names = several.iter().filter_map(|path| path.file_name());
            let names = names.map(|name| name.to_string_lossy());
            Err(ModelError::Several {
                path: dir.into(),
                what: "GGUF file",
                found: names.collect::<Vec<_>>().join(", "),
            })
        }
    }
}
