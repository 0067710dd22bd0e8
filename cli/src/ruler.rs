//! `quest ruler`

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use quest_burn_experiments::{
    budget::Budget,
    results::sha256,
    ruler::{self, Haystack, RulerConfig, RulerTask},
};
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    experiment::{ExperimentOptions, progress},
    failure::Failure,
    options::LayerOptions,
    policies::{PolicyList, policy_list},
};

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
    /// Tokens of prompt and answer together
    #[arg(
        long,
        value_name = "N,..",
        value_parser = count::tokens,
        value_delimiter = ',',
        default_value = "4096"
    )]
    lengths: Vec<usize>,
    /// Evenly spaced places of the needle that is asked for, from the beginning to the end
    #[arg(long, value_name = "N", default_value_t = 5)]
    depths: usize,
    /// Prompts for each task, length and depth
    #[arg(long, value_name = "N", default_value_t = 1)]
    trials: usize,
    /// Tokens that a decoded token attends to, or shares of the length
    #[arg(
        long,
        value_name = "B,..",
        value_delimiter = ',',
        default_value = "1/16,1/64"
    )]
    budgets: Vec<Budget>,
    /// Who answers
    #[arg(
        long,
        value_name = "P,..",
        value_parser = policy_list,
        default_value = "dense,quest,oracle"
    )]
    policies: PolicyList,
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
    layers: LayerOptions,
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
        comparison: args.experiment.comparison(
            &args.lengths,
            &args.budgets,
            &args.policies,
            &args.layers,
        ),
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
    let laboratory = plan.load(longest)?;
    let hash = |content: &Option<String>| content.as_ref().map(|c| sha256(c.bytes()));
    let settings = Settings {
        config: &config,
        text_sha256: hash(&text),
        documents_sha256: hash(&documents),
    };
    let (mut journal, run) = args.experiment.journal(&laboratory, "ruler", &settings)?;
    let progress = &mut progress("ruler");
    ruler::run(&laboratory.model, &config, &mut journal, progress)?;
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
