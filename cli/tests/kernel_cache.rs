//! Compiled kernels from process to process, counted on whichever Vulkan device there is.
//!
//! Numbers are judged elsewhere: drivers that run on the CPU give wrong ones for SPIR-V with shared
//! memory, while what is compiled and kept is the same.
#![cfg(feature = "vulkan")]

mod common;

use std::{fs, path::Path, process::Output};

use common::{Checkpoint, ids};
use quest_burn_tests::checkpoint::CheckpointSpec;

/// Scores a few tokens with kernels kept in a folder; `None` where no Vulkan device is there.
fn score(checkpoint: &Checkpoint, folder: &Path) -> Option<String> {
    let ids = checkpoint.write_ids(&ids(24, CheckpointSpec::default().vocab_size));
    let ids = ids.to_str().unwrap();
    let args = [
        "--device", "vulkan", "--dtype", "f32", "--policy", "dense", "--ids", ids,
    ];
    let Output { stderr, .. } = checkpoint
        .command("perplexity", &args)
        .env("QUEST_KERNEL_CACHE", folder)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    if stderr.contains("expected hardware and a driver") {
        println!("no Vulkan device: nothing is tested");
        return None;
    }
    Some(stderr)
}

/// Kernels that a run compiled, by its own count.
fn compiled(stderr: &str) -> usize {
    let counts = stderr.lines().find_map(|line| {
        let counts = line.strip_prefix("kernels: ")?;
        counts.split(' ').next()?.parse().ok()
    });
    counts.unwrap_or(0)
}

#[test]
fn a_second_process_compiles_nothing_until_the_cache_is_cut() {
    let checkpoint = Checkpoint::new(&CheckpointSpec::default());
    let folder = tempfile::tempdir().unwrap();
    let Some(first) = score(&checkpoint, folder.path()) else {
        return;
    };
    let all = compiled(&first);
    assert!(all > 0, "{first}");
    let second = score(&checkpoint, folder.path()).unwrap();
    assert_eq!(compiled(&second), 0, "{second}");
    assert!(!second.contains("kernel cache:"), "{second}");

    let files = fs::read_dir(folder.path()).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let database = files
        .find(|path| path.extension().is_some_and(|extension| extension == "db"))
        .unwrap();
    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let cut = score(&checkpoint, folder.path()).unwrap();
    assert_eq!(compiled(&cut), all, "{cut}");
    assert_eq!(cut.matches("kernel cache: begun again").count(), 1, "{cut}");
    let rebuilt = score(&checkpoint, folder.path()).unwrap();
    assert_eq!(compiled(&rebuilt), 0, "{rebuilt}");
}

#[test]
fn a_cache_that_cannot_be_written_is_said_and_does_no_harm() {
    let checkpoint = Checkpoint::new(&CheckpointSpec::default());
    let Some(stderr) = score(&checkpoint, Path::new("/proc/nowhere")) else {
        return;
    };
    assert!(compiled(&stderr) > 0, "{stderr}");
    assert!(stderr.contains("for this run only"), "{stderr}");
}
