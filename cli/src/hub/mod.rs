//! Models by their names on the Hugging Face hub.
//!
//! The cache is that of Python's `huggingface_hub`, its layout and its environment variables: what
//! either has downloaded, the other uses. Only the files that the program reads are brought, over
//! `ureq` with `rustls`.

mod cache;
mod client;
mod download;
mod error;
mod name;
mod select;
mod settings;

use std::{io, path::PathBuf};

use crate::output::{Progress, Unit};
use cache::CachedRepository;
use client::{Client, Listing, RequestError};

pub(crate) use error::HubError;
pub(crate) use name::HubName;
pub(crate) use settings::Settings;

/// The folder or GGUF file of a model, which is brought from the hub where the cache lacks it.
///
/// The hub is asked which commit the revision is now, unless `HF_HUB_OFFLINE` is set. Where it
/// cannot be reached, what the cache has is used, and stderr says so.
pub(crate) fn fetch(name: &HubName, settings: &Settings) -> Result<PathBuf, HubError> {
    let cached = CachedRepository::new(&settings.cache, name);
    if settings.offline {
        return from_cache(name, settings, &cached, "HF_HUB_OFFLINE is set");
    }
    match from_hub(name, settings, &cached) {
        Ok(path) => Ok(path),
        Err(RequestError::Hub(error)) => Err(error),
        Err(RequestError::Connection(error)) => {
            let path = from_cache(name, settings, &cached, &error.to_string())?;
            eprintln!(
                "hub: {} cannot be reached ({error}); the cache is used",
                settings.endpoint
            );
            Ok(path)
        }
    }
}

fn from_hub(
    name: &HubName,
    settings: &Settings,
    cached: &CachedRepository,
) -> Result<PathBuf, RequestError> {
    let client = Client::new(settings, name);
    let Listing { commit, files } = client.list()?;
    let selection = select::select(name, &files)?;
    let snapshot = cached.snapshot(&commit);
    let missing = selection.files.iter();
    let missing = missing.filter(|file| !snapshot.join(file).is_file());
    let infos = missing.map(|file| client.info(&commit, file).map(|info| (file, info)));
    let infos = infos.collect::<Result<Vec<_>, RequestError>>()?;

    let failed = |source: io::Error| HubError::Cache {
        path: cached.folder().into(),
        source,
    };
    let total = infos.iter().map(|(_, info)| info.bytes).sum::<u64>();
    let mut progress = None;
    let mut done = 0;
    for (file, info) in infos {
        let progress =
            progress.get_or_insert_with(|| Progress::new("downloading", Unit::Bytes, total));
        progress.note(file.clone());
        download::download(&client, cached, &commit, file, &info, &mut |bytes| {
            progress.set(done + bytes);
        })?;
        cached.link(&commit, file, &info.etag).map_err(failed)?;
        done += info.bytes;
    }
    cached.set_commit(&name.revision, &commit).map_err(failed)?;
    Ok(match &selection.gguf {
        Some(gguf) => snapshot.join(gguf),
        None => snapshot,
    })
}

/// What the cache has, without asking anyone.
fn from_cache(
    name: &HubName,
    settings: &Settings,
    cached: &CachedRepository,
    problem: &str,
) -> Result<PathBuf, HubError> {
    let unreachable = |cached: String| HubError::Unreachable {
        name: name.to_string(),
        problem: problem.to_owned(),
        cache: settings.cache.clone(),
        cached,
    };
    let Some(commit) = cached.commit(&name.revision) else {
        let models = cache::models(&settings.cache);
        return Err(unreachable(match models.is_empty() {
            true => "nothing".to_owned(),
            false => models.join(", "),
        }));
    };
    let files = cached.files(&commit);
    let selection = select::select(name, &files)
        .map_err(|_| unreachable(format!("a part of it: {}", files.join(", "))))?;
    let snapshot = cached.snapshot(&commit);
    Ok(match &selection.gguf {
        Some(gguf) => snapshot.join(gguf),
        None => snapshot,
    })
}
