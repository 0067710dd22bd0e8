//! `quest ruler`

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use quest_burn_experiments::{
    results::sha256,
    ruler::{self, Haystack, RulerConfig, RulerTask},
};
use serde::Serialize;

use crate::{
    contenders::{ComparisonDefaults, ComparisonOptions, ContenderDefaults},
    experiment::{ExperimentOptions, progress},
    failure::Failure,
};

/// What `quest ruler` compares by itself.
struct RulerDefaults;

impl ContenderDefaults for RulerDefaults {
    const BUDGETS: &'static str = "1/16,1/64";
    const POLICIES: &'static str = "dense,quest,oracle";
}

impl ComparisonDefaults for RulerDefaults {
    const LENGTHS: &'static str = "4096";
}

#[derive(Args)]
pub(crate) struct RulerArgs {
    /// Tasks: niah-single, niah-multikey, niah-multivalue, niah-multiquery, vt, cwe, fwe, and qa, which
    /// needs --documents
    #[arg(
        long,
        value_name = "T,..",
        value_delimiter = ',',
        default_value = "niah-single,niah-multikey,niah-multivalue,niah-multiquery,vt,cwe,fwe"
    )]
    tasks: Vec<RulerTask>,
    #[command(flatten)]
    comparison: ComparisonOptions<RulerDefaults>,
    /// Evenly spaced places of the needle that is asked for, from the beginning to the end
    #[arg(long, value_name = "N", default_value_t = 5)]
    depths: usize,
    /// Prompts for each task, length and depth
    #[arg(long, value_name = "N", default_value_t = 1)]
    trials: usize,
    /// Tokens of an answer at most [default: RULER's for each task, 30 to 128]
    #[arg(long, value_name = "N")]
    answer_tokens: Option<usize>,
    /// A text that needles and variables are hidden in [default: sentences about the grass]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Documents for the task qa: in each line a JSON object with `context`, `question` and a list of
    /// `answers`
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,
    #[command(flatten)]
    experiment: ExperimentOptions,
}

/// What results say about the run.
#[derive(Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    config: &'a RulerConfig,
    text_sha256: Option<String>,
    documents_sha256: Option<String>,
}

pub(crate) fn run(args: &RulerArgs) -> Result<(), Failure> {
    let plan = args.experiment.plan()?;
    let (text, documents) = (read(&args.text)?, read(&args.documents)?);
    let name = |path: &Option<PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => String::new(),
    };
    let config = RulerConfig {
        comparison: args.comparison.comparison(&args.experiment),
        tasks: args.tasks.clone(),
        depths: args.depths,
        trials: args.trials,
        answer_tokens: args.answer_tokens,
        haystack: match &text {
            Some(text) => Haystack::of_text(text)
                .with_context(|| name(&args.text))
                .map_err(Failure::from)?,
            None => Haystack::noise(),
        },
        documents: match &documents {
            Some(documents) => ruler::documents(documents)
                .with_context(|| name(&args.documents))
                .map_err(Failure::from)?,
            None => Vec::new(),
        },
        seed: args.experiment.seed,
    };
    config.check(plan.config(), plan.tokenizer())?;
    let longest = config.comparison.lengths.iter().copied().max().unwrap_or(0);
    let loaded = plan.load(longest)?;
    let hash = |content: &Option<String>| content.as_ref().map(|c| sha256(c.bytes()));
    let settings = Settings {
        config: &config,
        text_sha256: hash(&text),
        documents_sha256: hash(&documents),
    };
    let (mut journal, run) = args.experiment.journal(&loaded, "ruler", &settings)?;
    let progress = &mut progress("ruler");
    ruler::run(&loaded.model, &config, &mut journal, progress)?;
    let rows = ruler::rows(&config, journal.rows());
    args.experiment
        .report(&rows, &run, ruler::table(&rows), || {
            ruler::figure(&format!("RULER, {}", run.model.name), &rows)
        })
}

fn read(path: &Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path)
            .with_context(|| format!("{}: expected a readable file of text", path.display()))
    };
    path.as_ref().map(read).transpose()
}
