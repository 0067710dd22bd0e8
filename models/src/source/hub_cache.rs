use std::{
    fs,
    path::{Path, PathBuf},
};

use super::entries;
use crate::error::ModelError;

/// The snapshot in a folder of the hub's cache (`models--org--name/snapshots/<commit>`): the one that
/// `refs/main` names, or the only one. Nothing for other folders.
pub(super) fn snapshot(dir: &Path) -> Result<Option<PathBuf>, ModelError> {
    let snapshots = dir.join("snapshots");
    if dir.join("config.json").exists() || !snapshots.is_dir() {
        return Ok(None);
    }
    if let Ok(commit) = fs::read_to_string(dir.join("refs/main")) {
        let main = snapshots.join(commit.trim());
        if main.parent() == Some(&snapshots) && main.is_dir() {
            return Ok(Some(main));
        }
    }
    let folders = entries(&snapshots)?;
    match &folders[..] {
        [only] => Ok(Some(only.clone())),
        [] => Err(ModelError::Folder {
            path: snapshots,
            found: "none: the download has not begun",
        }),
        _ => Err(ModelError::Several {
            path: snapshots,
            what: "snapshot",
            found: names(&folders),
        }),
    }
}

fn names(paths: &[PathBuf]) -> String {
    let names = paths.iter().filter_map(|path| path.file_name());
    let names = names.map(|name| name.to_string_lossy());
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(commits: &[&str], main: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("refs")).unwrap();
        for commit in commits {
            fs::create_dir_all(dir.path().join("snapshots").join(commit)).unwrap();
        }
        if let Some(main) = main {
            fs::write(dir.path().join("refs/main"), main).unwrap();
        }
        dir
    }

    fn found(dir: &tempfile::TempDir) -> Option<String> {
        let snapshot = snapshot(dir.path()).unwrap()?;
        Some(snapshot.file_name()?.to_string_lossy().into_owned())
    }

    #[test]
    fn main_comes_before_the_only_snapshot() {
        assert_eq!(found(&cache(&["a"], None)).as_deref(), Some("a"));
        assert_eq!(
            found(&cache(&["a", "b"], Some("b\n"))).as_deref(),
            Some("b")
        );
        assert_eq!(found(&cache(&["a"], Some("gone"))).as_deref(), Some("a"));
        assert_eq!(found(&cache(&["a"], Some("../.."))).as_deref(), Some("a"));
        assert_eq!(found(&tempfile::tempdir().unwrap()), None);
    }

    #[test]
    fn several_snapshots_without_main_are_listed() {
        let error = snapshot(cache(&["b", "a"], None).path()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.ends_with("expected one snapshot, found a, b"),
            "{error}"
        );
    }
}
