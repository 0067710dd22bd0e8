use core::fmt;

use burn::config::Config;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{LazyPrefillConfig, QuestPrefill};
use crate::{
    FixedPoint,
    cache::validate_page_size,
    pages::PageSelection,
    policy::{DensePolicy, PagePolicy},
};

/// Most queries that score pages.
const MAX_QUERY_ROWS: usize = 1024;

/// What the tokens of a prompt attend to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefillConfig {
    /// Everything before them.
    #[default]
    Dense,
    /// Themselves, and the pages of the past that matter to some of their queries.
    Quest(QuestPrefillConfig),
    /// Everything before them that is still there: some tokens leave on their way through the layers.
    Lazy(LazyPrefillConfig),
}

/// How [`QuestPrefill`] chooses the pages that the new tokens of a pass attend to.
#[derive(Config, Debug, PartialEq, Eq)]
pub struct QuestPrefillConfig {
    /// Tokens of the past that new tokens may attend to, in whole pages (rounded down). A past that is no
    /// longer is read densely.
    #[config(default = 4096)]
    pub token_budget: usize,
    /// Queries that score the pages, evenly spread over the new tokens, the last one among them: 1 to 1024.
    #[config(default = 16)]
    pub query_rows: usize,
    /// First pages that are always read; they count towards the budget.
    #[config(default = 1)]
    pub sink_pages: usize,
    /// Last pages of the past that are always read; they count towards the budget. The page that the new
    /// tokens begin in is read in any case.
    #[config(default = 1)]
    pub recent_pages: usize,
}

/// A [`PrefillConfig`] that cannot be used.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefillConfigError {
    /// Pages of that size are in no cache.
    #[error("page size: expected a power of two from 8 to 128, found {0}")]
    PageSize(usize),
    /// The budget does not hold one page.
    #[error(
        "prefill budget: expected at least one page of {page_size} tokens, found {token_budget}"
    )]
    TokenBudget {
        /// The budget that was given, in tokens.
        token_budget: usize,
        /// Tokens per page.
        page_size: usize,
    },
    /// No query would score the pages, or more than a chunk has.
    #[error("prefill rows: expected 1 to {MAX_QUERY_ROWS} queries, found {0}")]
    QueryRows(usize),
    /// The pages that are always read do not fit into the budget.
    #[error(
        "pages that prompts always read: expected at most the prefill budget of {budget_pages} pages, found \
         {sink_pages} first and {recent_pages} last pages"
    )]
    AlwaysKept {
        /// First pages that are always read.
        sink_pages: usize,
        /// Last pages that are always read.
        recent_pages: usize,
        /// Pages that the budget holds.
        budget_pages: usize,
    },
    /// All tokens would leave.
    #[error("lazy prompts: expected a share from 0 to below 1 that leaves, found {0}")]
    LazyRate(FixedPoint),
    /// There is not a rate for each layer after which tokens leave.
    #[error(
        "lazy prompts: expected one rate, or {layers} for as many layers after which tokens leave, found {rates}"
    )]
    LazyRates {
        /// Layers after which tokens leave.
        layers: usize,
        /// Rates that were given.
        rates: usize,
    },
    /// Tokens would leave after layers that the model does not have, or not in their order.
    #[error(
        "lazy prompts: expected ascending layers from 1 to {most} after which tokens leave, found {found}"
    )]
    LazyLayers {
        /// The last layer that others follow.
        most: usize,
        /// The layers that were given.
        found: String,
    },
    /// No layer follows another one.
    #[error("lazy prompts: expected a model with at least 2 layers, found {0}")]
    LazyDepth(usize),
    /// No query would say what tokens are worth, or more than a chunk has for sure.
    #[error("lazy prompts: expected 1 to {most} last tokens whose attention counts, found {found}")]
    LazyQueries {
        /// Most that there may be.
        most: usize,
        /// The number that was given.
        found: usize,
    },
    /// The last token, which an answer goes on from, might leave.
    #[error("lazy prompts: expected at least 1 last token that stays, found 0")]
    LazyLast,
    /// Windows count tokens, of which some are not there.
    #[error("lazy prompts: expected a model without windows, found windows of {0} tokens")]
    LazyWindows(usize),
    /// One cache for all layers holds the same tokens in all of them.
    #[error(
        "lazy prompts: expected one sequence in a session, which has a cache for each stage, found one cache for \
         all layers"
    )]
    LazyPolicy,
}

impl PrefillConfig {
    /// Checks that prompts can be read so in a cache with pages of `page_size` tokens.
    ///
    /// # Errors
    ///
    /// See [`PrefillConfigError`].
    pub fn validate_for(&self, page_size: usize) -> Result<(), PrefillConfigError> {
        match self {
            Self::Dense => Ok(()),
            Self::Quest(config) => config.validate_for(page_size),
            Self::Lazy(config) => config.validate(),
        }
    }

    /// How tokens leave, where some do.
    pub fn lazy(&self) -> Option<&LazyPrefillConfig> {
        match self {
            Self::Lazy(config) => Some(config),
            Self::Dense | Self::Quest(_) => None,
        }
    }

    /// The policy that prompts go through in a cache with pages of `page_size` tokens.
    ///
    /// # Errors
    ///
    /// When [`validate_for`](Self::validate_for) fails, and when tokens leave: which tokens a layer computes is not
    /// for a policy to say.
    pub fn init(&self, page_size: usize) -> Result<Box<dyn PagePolicy>, PrefillConfigError> {
        Ok(match self {
            Self::Dense => Box::new(DensePolicy),
            Self::Quest(config) => Box::new(config.init(page_size)?),
            Self::Lazy(_) => return Err(PrefillConfigError::LazyPolicy),
        })
    }
}

/// `dense`, or `quest` or `lazy` with its settings.
impl fmt::Display for PrefillConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.pad("dense"),
            Self::Quest(config) => write!(
                f,
                "quest:budget={},rows={},first={},last={}",
                config.token_budget, config.query_rows, config.sink_pages, config.recent_pages
            ),
            Self::Lazy(config) => config.write(f),
        }
    }
}

impl QuestPrefillConfig {
    /// How pages of `page_size` tokens are chosen.
    pub fn selection(&self, page_size: usize) -> PageSelection {
        let k = (self.token_budget / page_size).max(1);
        let recent_pages = self.recent_pages.min(k);
        PageSelection {
            k,
            sink_pages: self.sink_pages.min(k - recent_pages),
            recent_pages,
        }
    }

    /// Checks that the values make sense together in a cache with pages of `page_size` tokens.
    ///
    /// # Errors
    ///
    /// See [`PrefillConfigError`].
    pub fn validate_for(&self, page_size: usize) -> Result<(), PrefillConfigError> {
        validate_page_size(page_size).map_err(|_| PrefillConfigError::PageSize(page_size))?;
        let budget_pages = self.token_budget / page_size;
        if budget_pages == 0 {
            return Err(PrefillConfigError::TokenBudget {
                token_budget: self.token_budget,
                page_size,
            });
        }
        if !(1..=MAX_QUERY_ROWS).contains(&self.query_rows) {
            return Err(PrefillConfigError::QueryRows(self.query_rows));
        }
        if self.sink_pages.saturating_add(self.recent_pages) > budget_pages {
            return Err(PrefillConfigError::AlwaysKept {
                sink_pages: self.sink_pages,
                recent_pages: self.recent_pages,
                budget_pages,
            });
        }
        Ok(())
    }

    /// The policy for a cache with pages of `page_size` tokens.
    ///
    /// # Errors
    ///
    /// When [`validate_for`](Self::validate_for) fails.
    pub fn init(&self, page_size: usize) -> Result<QuestPrefill, PrefillConfigError> {
        self.validate_for(page_size)?;
        Ok(QuestPrefill {
            config: self.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_refused(config: QuestPrefillConfig, page_size: usize, message: &str) {
        let error = PrefillConfig::Quest(config).init(page_size).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let config = QuestPrefillConfig::new();
        config.validate_for(16).unwrap();
        assert_refused(
            config.clone().with_token_budget(15),
            16,
            "prefill budget: expected at least one page of 16 tokens, found 15",
        );
        assert_refused(
            config.clone().with_query_rows(0),
            16,
            "prefill rows: expected 1 to 1024 queries, found 0",
        );
        assert_refused(
            config.clone().with_token_budget(32).with_sink_pages(2),
            16,
            "pages that prompts always read: expected at most the prefill budget of 2 pages, found 2 first and \
             1 last pages",
        );
        assert_refused(
            config,
            24,
            "page size: expected a power of two from 8 to 128, found 24",
        );
    }

    #[test]
    fn a_configuration_is_written_with_its_settings() {
        assert_eq!(PrefillConfig::Dense.to_string(), "dense");
        let quest = PrefillConfig::Quest(QuestPrefillConfig::new());
        assert_eq!(
            quest.to_string(),
            "quest:budget=4096,rows=16,first=1,last=1"
        );
    }
}
