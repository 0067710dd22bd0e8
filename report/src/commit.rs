//! The commit that a program is built from. For build scripts.

use std::{env, fs, path::Path, process::Command};

/// Marks a commit that tracked files differ from.
const DIRTY: &str = "-dirty";

/// Sets the environment variable `name` for the compilation of a package to the commit in
/// `workspace`, with `-dirty` where tracked files differ from it. A package from a registry names the
/// commit that it was made from. Outside a repository nothing is set.
///
/// The build script runs again when another commit is checked out or a file in `sources` changes.
pub fn set(name: &str, workspace: &Path, sources: &[&str]) {
    if let Some(commit) = packaged(Path::new(".cargo_vcs_info.json")) {
        println!("cargo::rustc-env={name}={commit}");
        return;
    }
    let git = |arguments: &[&str]| output(workspace, arguments);
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return;
    };
    // The log of HEAD grows with every commit and checkout; a fresh clone may have none.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--path-format=absolute", "--git-path", file]);
        if let Some(path) = path {
            rerun_if_changed(Path::new(&path));
        }
    }
    for source in sources {
        rerun_if_changed(&workspace.join(source));
    }
    let dirty = match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => DIRTY,
        _ => "",
    };
    println!("cargo::rustc-env={name}={commit}{dirty}");
}

/// A path that is not there would make the script run in every build.
fn rerun_if_changed(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The commit in what `cargo package` writes into a package.
fn packaged(path: &Path) -> Option<String> {
    // Build scripts run in the folder of their package.
    let root = env::var_os("CARGO_MANIFEST_DIR")?;
    sha1(&fs::read_to_string(Path::new(&root).join(path)).ok()?)
}

/// The value of `"sha1"`, marked where files differed from it: read without a parser for JSON, which build scripts would have to compile.
fn sha1(info: &str) -> Option<String> {
    let (_, rest) = info.split_once("\"sha1\"")?;
    let value = rest.split('"').nth(1)?;
    let is_hash = value.len() >= 40 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_dirty = info
        .split_whitespace()
        .collect::<String>()
        .contains("\"dirty\":true");
    is_hash.then(|| format!("{value}{}", if is_dirty { DIRTY } else { "" }))
}

/// What a git command prints; `None` where it fails.
fn output(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_of_a_package_is_read() {
        let hash = "47b8d47000000000000000000000000000000000";
        let info = format!(
            "{{\n  \"git\": {{\n    \"sha1\": \"{hash}\"\n  }},\n  \"path_in_vcs\": \"cli\"\n}}"
        );
        assert_eq!(sha1(&info).as_deref(), Some(hash));
        let dirty = info.replace("\"sha1\"", "\"dirty\": true, \"sha1\"");
        assert_eq!(sha1(&dirty), Some(format!("{hash}-dirty")));
        assert_eq!(sha1("{\"git\": {\"sha1\": \"none\"}}"), None);
        assert_eq!(sha1("{}"), None);
    }
}
