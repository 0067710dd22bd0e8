//! Checkpoints of a run: whole, or not there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use burn::module::Module;

use crate::trainer::{Progress, Trainer};

const PREFIX: &str = "checkpoint-";
const PARTIAL: &str = "partial-checkpoint";
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const PROGRESS: &str = "progress.json";

/// Writes a checkpoint into `folder` and removes the older ones.
///
/// It is written under another name first, so that a run cut at any moment leaves a whole one.
///
/// # Errors
///
/// When a file cannot be written.
pub(crate) fn save(folder: &Path, trainer: &Trainer) -> anyhow::Result<PathBuf> {
    let partial = folder.join(PARTIAL);
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(&partial)?,
    }
    trainer.snapshot().into_record().save(partial.join(MODEL))?;
    trainer.optimizer.save(partial.join(OPTIMIZER))?;
    let progress = serde_json::to_string_pretty(&trainer.progress)?;
    fs::write(partial.join(PROGRESS), progress)?;
    for name in [MODEL, OPTIMIZER, PROGRESS] {
        fs::File::open(partial.join(name))?.sync_all()?;
    }

    let older = all(folder)?;
    let path = folder.join(format!("{PREFIX}{:08}", trainer.progress.step));
    if !older.contains(&path) {
        fs::rename(&partial, &path).with_context(|| path.display().to_string())?;
    }
    for other in older.into_iter().filter(|other| *other != path) {
        fs::remove_dir_all(other)?;
    }
    Ok(path)
}

/// Puts a run where the newest checkpoint in `folder` left it; false where there is none.
///
/// # Errors
///
/// When a file cannot be read or is not of this model.
pub(crate) fn resume(folder: &Path, trainer: &mut Trainer) -> anyhow::Result<bool> {
    let Some(path) = all(folder)?.pop() else {
        return Ok(false);
    };
    let read = |trainer: &mut Trainer| -> anyhow::Result<()> {
        trainer.model = trainer.unwritten_model().try_load_file(path.join(MODEL))?;
        trainer.optimizer = trainer.optimizer.clone().load(path.join(OPTIMIZER))?;
        let progress = fs::read_to_string(path.join(PROGRESS))?;
        trainer.progress = serde_json::from_str::<Progress>(&progress)?;
        Ok(())
    };
    read(trainer).with_context(|| format!("{}: not a checkpoint of this run", path.display()))?;
    Ok(true)
}

/// The checkpoints in a folder, the newest last.
fn all(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
