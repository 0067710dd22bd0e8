//! What the tokens of prompts attend to, on the command line.

use anyhow::bail;
use clap::{Args, ValueEnum};
use quest_burn::policy::{PrefillConfig, QuestPrefillConfig};
use quest_burn_report::count;

/// What the tokens of prompts attend to.
#[derive(Args)]
pub(crate) struct PrefillOptions {
    /// What the tokens of a prompt attend to
    #[arg(long, value_enum, default_value_t = PrefillName::Dense)]
    prefill_policy: PrefillName,
    /// Tokens of the past that a chunk of a prompt attends to, beside itself [default: 4096]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    prefill_budget: Option<usize>,
    /// Queries of a chunk that score the pages of the past [default: 16]
    #[arg(long, value_name = "N")]
    prefill_rows: Option<usize>,
    /// First pages that a chunk always attends to; they count towards its budget [default: 1]
    #[arg(long, value_name = "N")]
    prefill_sink_pages: Option<usize>,
    /// Last pages of the past that a chunk always attends to; they count towards its budget [default: 1]
    #[arg(long, value_name = "N")]
    prefill_recent_pages: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PrefillName {
    /// Everything before them
    Dense,
    /// Their chunk, and the pages before it that matter to it, by their digests
    Quest,
}

impl PrefillOptions {
    /// As the library takes it.
    pub(crate) fn config(&self) -> anyhow::Result<PrefillConfig> {
        let default = QuestPrefillConfig::new();
        match self.prefill_policy {
            PrefillName::Quest => Ok(PrefillConfig::Quest(QuestPrefillConfig {
                token_budget: self.prefill_budget.unwrap_or(default.token_budget),
                query_rows: self.prefill_rows.unwrap_or(default.query_rows),
                sink_pages: self.prefill_sink_pages.unwrap_or(default.sink_pages),
                recent_pages: self.prefill_recent_pages.unwrap_or(default.recent_pages),
            })),
            PrefillName::Dense => {
                let without_effect = [
                    ("--prefill-budget", self.prefill_budget),
                    ("--prefill-rows", self.prefill_rows),
                    ("--prefill-sink-pages", self.prefill_sink_pages),
                    ("--prefill-recent-pages", self.prefill_recent_pages),
                ];
                match without_effect.iter().find(|(_, value)| value.is_some()) {
                    Some((option, _)) => {
                        bail!("{option}: expected --prefill-policy quest with it, found dense")
                    }
                    None => Ok(PrefillConfig::Dense),
                }
            }
        }
    }
}
