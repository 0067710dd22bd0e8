//! Golden fixtures: tiny checkpoints with results computed by Hugging Face transformers.
//!
//! They are looked for in the folder that the environment variable `QUEST_BURN_FIXTURES` names,
//! otherwise in `../shared/fixtures` beside the repository. Tests skip without them and say so;
//! with `QUEST_BURN_REQUIRE_FIXTURES=1`, as in CI, their absence is a failure.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use quest_burn::QuestConfig;
use serde::Deserialize;

/// A checkpoint and what it must compute.
#[derive(Debug)]
pub struct Fixture {
    /// The folder's name.
    pub name: String,
    /// The checkpoint.
    pub dir: PathBuf,
    /// The reference results.
    pub golden: Golden,
}

/// The content of `golden.json`.
#[derive(Debug, Deserialize)]
pub struct Golden {
    /// Token ids that everything was computed from.
    pub ids: Vec<u32>,
    /// `-log p(ids[i + 1] | ids[..=i])`, full attention.
    pub dense_nll: Vec<f64>,
    /// Ids of the prompt that [`greedy`](Self::greedy) continues.
    pub greedy_prompt_len: usize,
    /// Greedy ids, past any end of sequence.
    pub greedy: Vec<u32>,
    /// Ids that are prefilled densely before sparse decoding begins.
    pub prefill: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Leading layers without sparsity.
    pub dense_layers: usize,
    /// The version that they were computed with, where it is said.
    #[serde(default)]
    pub transformers: Option<String>,
    /// The smallest difference between the best and the second best logit of the greedy ids.
    #[serde(default)]
    pub greedy_margin: Option<f64>,
    /// `quest_<variant>_<budget>`: NLL of `ids[prefill..]` decoded one by one.
    #[serde(flatten)]
    pub quest: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    /// The configuration that a list of [`quest`](Self::quest) was computed with.
    ///
    /// # Panics
    ///
    /// When the name is not `quest_<variant>_<budget>` with a known variant.
    pub fn quest_config(&self, list: &str) -> QuestConfig {
        let (variant, budget) = list
            .strip_prefix("quest_")
            .and_then(|rest| rest.rsplit_once('_'))
            .unwrap_or_else(|| panic!("quest_<variant>_<budget> was expected, found {list}"));
        let preset = match variant {
            "paper_eval" => QuestConfig::accuracy_code(),
            "kernel" | "kernels" => QuestConfig::kernels(),
            "kv_group_max" | "kv-group" => QuestConfig::kv_group(),
            _ => panic!("{list}: unknown variant {variant}"),
        };
        let budget = budget
            .parse()
            .unwrap_or_else(|error| panic!("{list}: {error}"));
        preset
            .with_token_budget(budget)
            .with_dense_layers(self.dense_layers)
    }
}

/// Every fixture, or none where they are absent.
///
/// # Panics
///
/// When they are absent and required, or cannot be read.
pub fn all() -> Vec<Fixture> {
    let folder = folder();
    let Ok(mut fixtures) = of_folder(&folder) else {
        skip(&folder);
        return Vec::new();
    };
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    if fixtures.is_empty() {
        skip(&folder);
    }
    fixtures
}

/// The tiny models of each architecture that are part of the repository, with what transformers computes
/// with them (`make_architectures.py` beside them).
///
/// # Panics
///
/// When they cannot be read.
pub fn architectures() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut fixtures = of_folder(&folder).expect("the folder can be listed");
    assert!(!fixtures.is_empty(), "no fixtures in {}", folder.display());
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    fixtures
}

fn of_folder(folder: &Path) -> io::Result<Vec<Fixture>> {
    let entries = fs::read_dir(folder)?;
    let dirs = entries.map(|entry| entry.expect("the folder can be listed").path());
    let dirs = dirs.filter(|dir| dir.join("golden.json").is_file());
    Ok(dirs.map(read).collect())
}

fn folder() -> PathBuf {
    match env::var_os("QUEST_BURN_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
    }
}

fn read(dir: PathBuf) -> Fixture {
    let file = dir.join("golden.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let golden = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let name = dir.file_name().expect("a listed folder has a name");
    Fixture {
        name: name.to_string_lossy().into_owned(),
        dir,
        golden,
    }
}

fn skip(folder: &Path) {
    let message = format!(
        "no golden fixtures in {} (set QUEST_BURN_FIXTURES to their folder)",
        folder.display()
    );
    if env::var_os("QUEST_BURN_REQUIRE_FIXTURES").is_some_and(|value| value == "1") {
        panic!("{message}, but QUEST_BURN_REQUIRE_FIXTURES=1");
    }
    // Written directly: the test harness hides what a passing test prints with `eprintln!`.
    let _ = writeln!(io::stderr(), "SKIPPED: {message}");
}
