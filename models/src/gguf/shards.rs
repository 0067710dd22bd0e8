use std::path::{Path, PathBuf};

use super::file::GgufFile;
use crate::error::ModelError;

/// Which shard a file is by its name, `<model>-00002-of-00005.gguf`; none where it is no shard.
pub(crate) fn number(path: &Path) -> Option<usize> {
    Some(parts(path)?.1)
}

/// The files of a model of which one is given, in order.
pub(super) fn all(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let Some((stem, _, count)) = parts(path) else {
        return Ok(vec![path.into()]);
    };
    let shard = |number: usize| {
        let name = format!("{stem}-{number:05}-of-{count:05}.gguf");
        let shard = path.with_file_name(&name);
        match shard.is_file() {
            true => Ok(shard),
            false => Err(ModelError::MissingShard {
                index: path.into(),
                shard: name,
            }),
        }
    };
    (1..=count).map(shard).collect()
}

/// Refuses shards that are not those of one model.
pub(super) fn check(paths: &[PathBuf], files: &[GgufFile]) -> Result<(), ModelError> {
    for (index, file) in files.iter().enumerate() {
        for (key, expected) in [("split.no", index), ("split.count", files.len())] {
            let found = file.metadata.size(key)?;
            // A single file may have been merged from shards, and say that there are none.
            let found = found.filter(|found| files.len() > 1 || *found > 1);
            if let Some(found) = found.filter(|found| *found != expected) {
                let problem = format!("expected {expected}, found {found}");
                return Err(file.metadata.invalid(key, problem));
            }
        }
        for name in file.tensors.keys() {
            let earlier = &files[..index];
            if let Some(other) = earlier
                .iter()
                .position(|file| file.tensors.contains_key(name))
            {
                return Err(ModelError::DuplicateTensor {
                    path: paths[index].clone(),
                    other: paths[other].clone(),
                    name: name.clone(),
                });
            }
        }
    }
    Ok(())
}

fn parts(path: &Path) -> Option<(&str, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| match text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<usize>().ok(),
        false => None,
    };
    let (number, count) = (digits(number)?, digits(count)?);
    (1..=count)
        .contains(&number)
        .then_some((stem, number, count))
}
