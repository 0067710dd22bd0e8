//! `quest perplexity --policies ..`: perplexity against position, by policy and budget.

use std::path::PathBuf;

use clap::Args;
use quest_burn::policy::PolicyKind;
use quest_burn_experiments::{
    budget::Budget,
    perplexity::{self, PerplexityConfig},
};
use quest_burn_models::generation::{check_context, check_ids};
use quest_burn_report::count;
use serde::Serialize;

use super::PerplexityArgs;
use crate::{
    experiment::{ExperimentOptions, progress},
    failure::Failure,
    policies::PolicyList,
    text::TextInfo,
};

#[derive(Args)]
pub(super) struct ComparisonOptions {
    /// Scores the text through each of these policies, decoding it token by token
    #[arg(
        long,
        value_name = "P,..",
        value_parser = PolicyKind::parse_list,
        conflicts_with_all = ["policy", "token_budget"]
    )]
    policies: Option<PolicyList>,
    /// Tokens that a decoded token attends to, or shares of the text
    #[arg(
        long,
        value_name = "B,..",
        value_delimiter = ',',
        default_value = "1/16",
        requires = "policies"
    )]
    budgets: Vec<Budget>,
    /// Scored tokens between two points of the curve
    #[arg(
        long,
        value_name = "N",
        value_parser = count::any_tokens,
        default_value_t = 256,
        requires = "policies"
    )]
    window: usize,
    /// Keeps every row in FILE as soon as it is there, and resumes from the rows that FILE holds
    #[arg(long, value_name = "FILE", requires = "policies")]
    resume: Option<PathBuf>,
    /// Draws perplexity against position into an SVG file
    #[arg(long, value_name = "F.svg", requires = "policies")]
    plot: Option<PathBuf>,
}

impl ComparisonOptions {
    pub(super) fn is_asked_for(&self) -> bool {
        self.policies.is_some()
    }
}

/// What results say about the run.
#[derive(Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    config: &'a PerplexityConfig,
    #[serde(flatten)]
    text: TextInfo,
}

pub(super) fn run(args: PerplexityArgs) -> Result<(), Failure> {
    let PerplexityArgs {
        common,
        text,
        prefill,
        comparison,
        channels: _,
        json,
    } = args;
    let config = PerplexityConfig {
        policies: comparison.policies.unwrap_or_default(),
        budgets: comparison.budgets,
        prefill: prefill.unwrap_or(1),
        window: comparison.window,
        prefill_chunk: common.model.prefill_chunk(),
        quest: (common.policy.selection).quest_config(common.policy.layers.dense_layers),
        page_size: common.policy.selection.page_size(),
    };
    let experiment = ExperimentOptions {
        model: common.model,
        selection: common.policy.selection,
        seed: 0,
        resume: comparison.resume,
        plot: comparison.plot,
        json,
    };
    let plan = experiment.plan()?;
    let ids = text.read(plan.tokenizer())?;
    check_ids(&ids, plan.config().vocab_size)?;
    check_context(ids.len(), 0, common.context)?;
    config.check(plan.config(), ids.len())?;
    let loaded = plan.load(ids.len())?;
    let settings = Settings {
        config: &config,
        text: text.info(&ids),
    };
    let (mut journal, run) = experiment.journal(&loaded, "perplexity", &settings)?;
    perplexity::run(
        &loaded.model,
        &config,
        &ids,
        &mut journal,
        &mut progress("perplexity"),
    )?;
    let rows = journal.rows();
    experiment.report(rows, &run, perplexity::table(rows), || {
        perplexity::figure(&format!("Perplexity, {}", run.model.name), rows)
    })
}
