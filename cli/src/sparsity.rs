//! `quest sparsity`

use anyhow::anyhow;
use clap::Args;
use quest_burn::policy::PolicyKind;
use quest_burn_experiments::{
    budget::Budget,
    sparsity::{self, SparsityConfig},
};
use quest_burn_models::generation::check_ids;
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    experiment::{ExperimentOptions, progress},
    failure::Failure,
    policies::PolicyList,
    text::{TextInfo, TextOptions},
};

#[derive(Args)]
pub(crate) struct SparsityArgs {
    #[command(flatten)]
    text: TextOptions,
    /// Tokens that are prefilled densely; the others are decoded and scored [default: half]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    prefill: Option<usize>,
    /// Tokens that a decoded token attends to in the sparse layer, or shares of the length,
    /// ascending [default: a page, twice that, and so on below the length]
    #[arg(long, value_name = "B,..", value_delimiter = ',')]
    budgets: Vec<Budget>,
    /// Who chooses what is read
    #[arg(
        long,
        value_name = "P,..",
        value_parser = PolicyKind::parse_list,
        default_value = "quest,oracle"
    )]
    policies: PolicyList,
    /// How much the perplexity may be above that of dense attention
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    tolerance: f64,
    #[command(flatten)]
    experiment: ExperimentOptions,
}

/// What results say about the run.
#[derive(Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    config: &'a SparsityConfig,
    #[serde(flatten)]
    text: TextInfo,
}

impl SparsityArgs {
    /// The budgets in a text of that many tokens. Shares that are as many whole pages are one
    /// budget: which is the smallest is all that is asked.
    fn budgets(&self, length: usize) -> Vec<usize> {
        let page_size = self.experiment.selection.page_size();
        let budgets = self.budgets.iter();
        let mut budgets = budgets
            .map(|budget| budget.tokens(length, page_size))
            .collect::<Vec<_>>();
        budgets.dedup();
        budgets
    }
}

pub(crate) fn run(args: &SparsityArgs) -> Result<(), Failure> {
    let plan = args.experiment.plan()?;
    let ids = args.text.read(plan.tokenizer())?;
    check_ids(&ids, plan.config().vocab_size)?;
    let quest = args.experiment.selection.quest_config(Some(0));
    let page_size = args.experiment.selection.page_size();
    let config = SparsityConfig {
        policies: args.policies.clone(),
        budgets: match args.budgets.is_empty() {
            true => SparsityConfig::default_budgets(page_size, ids.len()),
            false => args.budgets(ids.len()),
        },
        tolerance: args.tolerance,
        prefill: args.prefill.unwrap_or(ids.len() / 2),
        prefill_chunk: args.experiment.model.prefill_chunk(),
        quest: quest.clone(),
        page_size,
    };
    if config.budgets.is_empty() {
        let (page, found) = (page_size, ids.len());
        let error = anyhow!("text: expected more tokens than a page has, {page}, found {found}");
        return Err(error.into());
    }
    config.check(plan.config(), ids.len())?;
    let loaded = plan.load(ids.len())?;
    let model = &loaded.model;
    let settings = Settings {
        config: &config,
        text: args.text.info(&ids),
    };
    let (mut journal, run) = args.experiment.journal(&loaded, "sparsity", &settings)?;
    sparsity::run(
        model,
        &config,
        &ids,
        &mut journal,
        &mut progress("sparsity"),
    )?;
    let rows = sparsity::rows(&config, model.config().n_layers, ids.len(), journal.rows());
    args.experiment
        .report(&rows, &run, sparsity::table(&rows), || {
            let name = &run.model.name;
            sparsity::figure(&format!("Sparsity of each layer, {name}"), &rows)
        })
}
