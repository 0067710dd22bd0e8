//! What experiments compare: policies, budgets and lengths.

use std::marker::PhantomData;

use clap::Args;
use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_experiments::{Comparison, budget::Budget};
use quest_burn_report::count;

use crate::{
    experiment::ExperimentOptions,
    options::{LayerOptions, SelectionOptions},
    policies::{PolicyList, names},
};

/// What an experiment compares unless something else is asked for.
pub(crate) trait ContenderDefaults {
    const BUDGETS: &'static str;
    const POLICIES: &'static str;
}

/// At which lengths, where an experiment makes its own prompts.
pub(crate) trait ComparisonDefaults: ContenderDefaults {
    const LENGTHS: &'static str;
}

/// Which policies are compared, and how much they read.
#[derive(Args)]
pub(crate) struct ContenderOptions<D: ContenderDefaults> {
    /// Tokens that a decoded token attends to, or shares of the length such as 1/16
    #[arg(long, value_name = "B,..", value_delimiter = ',', default_value = D::BUDGETS)]
    pub budgets: Vec<Budget>,
    #[arg(
        long,
        value_name = "P,..",
        value_parser = PolicyKind::parse_list,
        default_value = D::POLICIES,
        help = format!("Policies to compare, a name or name:key=value,.. each: {}", names())
    )]
    pub policies: PolicyList,
    #[command(flatten)]
    layers: LayerOptions,
    #[arg(skip)]
    defaults: PhantomData<D>,
}

/// The same over prompts of several lengths.
#[derive(Args)]
pub(crate) struct ComparisonOptions<D: ComparisonDefaults> {
    /// Tokens of prompt and answer together
    #[arg(
        long,
        value_name = "N,..",
        value_parser = count::tokens,
        value_delimiter = ',',
        default_value = D::LENGTHS
    )]
    lengths: Vec<usize>,
    #[command(flatten)]
    contenders: ContenderOptions<D>,
}

impl<D: ContenderDefaults> ContenderOptions<D> {
    /// The configuration of Quest; its budget is one of [these](Self::budgets).
    pub(crate) fn quest_config(&self, selection: &SelectionOptions) -> QuestConfig {
        selection.quest_config(self.layers.dense_layers)
    }
}

impl<D: ComparisonDefaults> ComparisonOptions<D> {
    /// As the experiments take it.
    pub(crate) fn comparison(&self, experiment: &ExperimentOptions) -> Comparison {
        Comparison {
            lengths: self.lengths.clone(),
            budgets: self.contenders.budgets.clone(),
            policies: self.contenders.policies.clone(),
            prefill_chunk: experiment.model.prefill_chunk(),
            quest: self.contenders.quest_config(&experiment.selection),
            page_size: experiment.selection.page_size(),
        }
    }
}
