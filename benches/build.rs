//! Tells the program which commit it was built from, so that every result names it.

use std::{env, path::PathBuf};

use quest_burn_report::commit;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let sources = ["linear/src", "quest-burn/src", "models/src", "benches/src"];
    commit::set("QUEST_BENCH_COMMIT", &package.join(".."), &sources);
}
