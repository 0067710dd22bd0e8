//! What the program carries besides its code: the commit that it was built from, and the model that
//! ships with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use quest_burn_report::commit;

/// The crates that the program is made of.
const SOURCES: [&str; 9] = [
    "linear/src",
    "quest-burn/src",
    "models/src",
    "report/src",
    "experiments/src",
    "engine/src",
    "serve/src",
    "benches/src",
    "cli/src",
];

/// Folder of the model that ships with the program. A link to the workspace's `assets`, so that the
/// package holds the files too.
const MODEL: &str = "assets/quest-passkey";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = package.join("..");
    commit::set("QUEST_COMMIT", &workspace, &SOURCES);
    let code = embedded(&package.join(MODEL));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("shipped.rs"), code).expect("cargo's output folder can be written to");
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
