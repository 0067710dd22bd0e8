//! What the tokens of prompts attend to, on the command line.

use anyhow::bail;
use clap::{Args, ValueEnum};
use quest_burn::{
    FixedPoint,
    policy::{LazyPrefillConfig, PrefillConfig, QuestPrefillConfig},
};
use quest_burn_report::count;

/// What the tokens of prompts attend to.
#[derive(Args)]
pub(crate) struct PrefillOptions {
    /// What the tokens of a prompt attend to
    #[arg(long, value_enum, default_value_t = PrefillName::Dense)]
    prefill_policy: PrefillName,
    /// quest: tokens of the past that a chunk of a prompt attends to, beside itself [default: 4096]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    prefill_budget: Option<usize>,
    /// quest: queries of a chunk that score the pages of the past [default: 16]
    #[arg(long, value_name = "N")]
    prefill_rows: Option<usize>,
    /// quest: first pages that a chunk always attends to; they count towards its budget [default: 1]
    #[arg(long, value_name = "N")]
    prefill_sink_pages: Option<usize>,
    /// quest: last pages of the past that a chunk always attends to; they count towards its budget [default: 1]
    #[arg(long, value_name = "N")]
    prefill_recent_pages: Option<usize>,
    /// lazy: layers after which tokens leave, counted from 1 [default: at 0.3, 0.6 and 0.9 of the depth]
    #[arg(long, value_name = "L,..", value_delimiter = ',')]
    prefill_layers: Option<Vec<usize>>,
    /// lazy: share of the tokens that leaves after each of these layers; one for all, or one for each [default: 0.3]
    #[arg(long, value_name = "R,..", value_delimiter = ',')]
    prefill_rates: Option<Vec<FixedPoint>>,
    /// lazy: last tokens of a prompt whose attention says which tokens leave [default: 1]
    #[arg(long, value_name = "N")]
    prefill_queries: Option<usize>,
    /// lazy: first tokens of the text that never leave [default: 0]
    #[arg(long, value_name = "N")]
    prefill_keep_first: Option<usize>,
    /// lazy: last tokens of a prompt that never leave [default: 1]
    #[arg(long, value_name = "N")]
    prefill_keep_last: Option<usize>,
    /// lazy: tokens that left come back where they are not among the share R with the least attention of a decoded
    /// token [default: they do not come back]
    #[arg(long, value_name = "R")]
    prefill_revive: Option<FixedPoint>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PrefillName {
    /// Everything before them
    Dense,
    /// Their chunk, and the pages before it that matter to it, by their digests
    Quest,
    /// Everything before them that is still there: tokens that matter little to the last one leave on their way
    /// through the layers
    Lazy,
}

impl PrefillName {
    fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Quest => "quest",
            Self::Lazy => "lazy",
        }
    }
}

impl PrefillOptions {
    /// As the library takes it.
    pub(crate) fn config(&self) -> anyhow::Result<PrefillConfig> {
        self.refuse_those_of_others()?;
        Ok(match self.prefill_policy {
            PrefillName::Dense => PrefillConfig::Dense,
            PrefillName::Quest => {
                let default = QuestPrefillConfig::new();
                PrefillConfig::Quest(QuestPrefillConfig {
                    token_budget: self.prefill_budget.unwrap_or(default.token_budget),
                    query_rows: self.prefill_rows.unwrap_or(default.query_rows),
                    sink_pages: self.prefill_sink_pages.unwrap_or(default.sink_pages),
                    recent_pages: self.prefill_recent_pages.unwrap_or(default.recent_pages),
                })
            }
            PrefillName::Lazy => {
                let default = LazyPrefillConfig::new();
                PrefillConfig::Lazy(LazyPrefillConfig {
                    layers: self.prefill_layers.clone().unwrap_or(default.layers),
                    rates: self.prefill_rates.clone().unwrap_or(default.rates),
                    queries: self.prefill_queries.unwrap_or(default.queries),
                    keep_first: self.prefill_keep_first.unwrap_or(default.keep_first),
                    keep_last: self.prefill_keep_last.unwrap_or(default.keep_last),
                    revival: self.prefill_revive,
                })
            }
        })
    }

    /// Refuses options of policies that were not asked for.
    fn refuse_those_of_others(&self) -> anyhow::Result<()> {
        let (quest, lazy) = (PrefillName::Quest, PrefillName::Lazy);
        let given = [
            ("--prefill-budget", quest, self.prefill_budget.is_some()),
            ("--prefill-rows", quest, self.prefill_rows.is_some()),
            (
                "--prefill-sink-pages",
                quest,
                self.prefill_sink_pages.is_some(),
            ),
            (
                "--prefill-recent-pages",
                quest,
                self.prefill_recent_pages.is_some(),
            ),
            ("--prefill-layers", lazy, self.prefill_layers.is_some()),
            ("--prefill-rates", lazy, self.prefill_rates.is_some()),
            ("--prefill-queries", lazy, self.prefill_queries.is_some()),
            (
                "--prefill-keep-first",
                lazy,
                self.prefill_keep_first.is_some(),
            ),
            (
                "--prefill-keep-last",
                lazy,
                self.prefill_keep_last.is_some(),
            ),
            ("--prefill-revive", lazy, self.prefill_revive.is_some()),
        ];
        let found = self.prefill_policy;
        match given
            .iter()
            .find(|(_, of, is_given)| *is_given && *of != found)
        {
            Some((option, of, _)) => bail!(
                "{option}: expected --prefill-policy {} with it, found {}",
                of.name(),
                found.name()
            ),
            None => Ok(()),
        }
    }

    /// Whether tokens of prompts leave on their way through the layers.
    pub(crate) fn is_lazy(&self) -> bool {
        self.prefill_policy == PrefillName::Lazy
    }

    /// Refuses prompts that leave tokens behind, for what needs them all.
    pub(crate) fn refuse_lazy(&self, what: &str) -> anyhow::Result<()> {
        match self.is_lazy() {
            true => bail!(
                "--prefill-policy: expected dense or quest with {what}, which needs all tokens in all layers, found \
                 lazy"
            ),
            false => Ok(()),
        }
    }

    /// Refuses all but dense prompts.
    #[cfg(feature = "serve")]
    pub(crate) fn require_dense(&self, what: &str) -> anyhow::Result<()> {
        match self.prefill_policy {
            PrefillName::Dense => Ok(()),
            found => bail!(
                "--prefill-policy: expected dense with {what}, found {}",
                found.name()
            ),
        }
    }
}
