use std::{
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use super::HubName;

/// A model in the cache, laid out as `huggingface_hub` does: files by their content in `blobs`, links
/// to them by their names in `snapshots/<commit>`, commits by branch and tag in `refs`.
#[derive(Clone, Debug)]
pub(super) struct CachedRepository {
    folder: PathBuf,
    locks: PathBuf,
}

impl CachedRepository {
    pub(super) fn new(cache: &Path, name: &HubName) -> Self {
        let folder = format!("models--{}", name.repository.replace('/', "--"));
        Self {
            locks: cache.join(".locks").join(&folder),
            folder: cache.join(folder),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commit that a revision was when it was asked for last.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let reference = fs::read_to_string(self.folder.join("refs").join(revision));
        let commit = reference.map(|commit| commit.trim().to_owned());
        let commit = commit.unwrap_or_else(|_| revision.to_owned());
        (is_plain(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Remembers the commit of a revision.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> io::Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut file, commit.as_bytes())?;
        file.persist(path)?;
        Ok(())
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Names of the files of a commit that are there.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                match entry.path() {
                    path if path.is_dir() => walk(&path, &format!("{name}/"), files),
                    path if path.is_file() => files.push(name),
                    _ => {}
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.snapshot(commit), "", &mut files);
        files
    }

    /// Where content is kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Keeps others from writing the same content, as long as the file lives.
    pub(super) fn lock(&self, etag: &str) -> io::Result<File> {
        fs::create_dir_all(&self.locks)?;
        let file = File::create(self.locks.join(format!("{etag}.lock")))?;
        file.lock()?;
        Ok(file)
    }

    /// Gives content its name in a commit.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> io::Result<()> {
        let path = self.snapshot(commit).join(file);
        if path.exists() {
            return Ok(());
        }
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        // A link whose content is gone.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path)?;
        }
        #[cfg(unix)]
        {
            let up = "../".repeat(2 + file.matches('/').count());
            std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), path)
        }
        #[cfg(not(unix))]
        {
            fs::copy(self.blob(etag), path).map(drop)
        }
    }
}

/// Models that the cache holds, by their names on the hub.
pub(super) fn models(cache: &Path) -> Vec<String> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut models = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            Some(name.strip_prefix("models--")?.replace("--", "/"))
        })
        .collect::<Vec<_>>();
    models.sort();
    models
}

/// Whether a name of the hub is that of one file or folder.
pub(super) fn is_plain(name: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // Neither empty nor `..`.
    name.chars().all(letters) && !name.trim_matches('.').is_empty()
}

/// Whether a file's name stays within its repository.
pub(super) fn is_inside(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    !file.is_empty()
        && !file.contains('\\')
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_names_by_commit() {
        let dir = tempfile::tempdir().unwrap();
        let name = HubName::parse("org/name").unwrap();
        let cached = CachedRepository::new(dir.path(), &name);
        assert_eq!(cached.commit("main"), None);
        fs::create_dir_all(cached.blob("e1").parent().unwrap()).unwrap();
        fs::write(cached.blob("e1"), "content").unwrap();
        for file in ["config.json", "sub/model.gguf"] {
            cached.link("abc", file, "e1").unwrap();
            let path = dir
                .path()
                .join("models--org--name/snapshots/abc")
                .join(file);
            assert_eq!(fs::read_to_string(path).unwrap(), "content");
        }
        let mut files = cached.files("abc");
        files.sort();
        assert_eq!(files, ["config.json", "sub/model.gguf"]);
        cached.set_commit("refs/pr/1", "abc").unwrap();
        for revision in ["refs/pr/1", "abc"] {
            assert_eq!(cached.commit(revision).as_deref(), Some("abc"));
        }
        assert_eq!(models(dir.path()), ["org/name"]);
    }

    #[test]
    fn names_from_elsewhere_stay_inside() {
        assert!(is_inside("a/b.json") && is_plain("0a-b.c"));
        for name in ["../a", "/a", "a/../b", "", "a\\b"] {
            assert!(!is_inside(name) && !is_plain(name), "{name}");
        }
        assert!(!is_plain(".."));
    }
}
