//! What the program carries beside its code: the commit that it was built from, and the model that
//! ships with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Folder of the model that ships with the program. A link to the workspace's `assets`, so that the
/// package holds the files too.
const MODEL: &str = "assets/quest-passkey";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = package.join("..");
    if let Some(commit) = commit(&workspace) {
        println!("cargo::rustc-env=QUEST_COMMIT={commit}");
    }
    let code = embedded(&package.join(MODEL));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("shipped.rs"), code).expect("cargo's output folder can be written to");
}

/// The commit, `-dirty` where tracked files differ from it; nothing outside a repository.
fn commit(workspace: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .current_dir(workspace)
            .args(args)
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    // Another commit is checked out, or a crate of the program is edited.
    let log = git(&[
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "logs/HEAD",
    ])?;
    let crates = ["quest-burn", "models", "experiments", "cli"];
    let sources = crates.map(|name| workspace.join(name).join("src"));
    for path in sources
        .iter()
        .map(PathBuf::as_path)
        .chain([Path::new(&log)])
    {
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}"))
}

/// Code that holds the shipped model: an `Option<Shipped>`, none where the folder is not there.
fn embedded(folder: &Path) -> String {
    let required = ["config.json", "model.safetensors", "tokenizer.json"];
    let complete = required.iter().all(|name| folder.join(name).is_file());
    if env::var_os("CARGO_FEATURE_SHIPPED_MODEL").is_none() || !complete {
        return "None".to_owned();
    }
    println!("cargo::rerun-if-changed={}", folder.display());
    let names = required.iter().chain(&["generation_config.json"]);
    let files = names
        .map(|name| (name, folder.join(name)))
        .filter(|(_, path)| path.is_file())
        .map(|(name, path)| format!("({name:?}, include_bytes!({path:?}).as_slice())"))
        .collect::<Vec<_>>()
        .join(", ");
    let name = folder.file_name().unwrap_or_default();
    format!("Some(Shipped {{ name: {name:?}, files: &[{files}] }})")
}
