use burn::config::Config;
use thiserror::Error;

use super::QuestPolicy;
use crate::{
    FixedPoint,
    cache::{LayerCache, Step, validate_page_size},
    pages::{GroupRule, PageScoring, PageSelection, PageSharing},
};

/// How the page that holds the newest token takes part in the selection.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum NewestPage {
    /// It is always read and counts towards the budget.
    Pinned,
    /// It competes by its score and may be left out, as in the paper's accuracy experiments.
    Competes,
}

/// How Quest chooses the pages that a decoded token attends to.
///
/// By default every layer is sparse, the query heads of a KV head share one list, and the first and the
/// newest page are always read: with digests of means ([`DigestKind::MeanScalar`](crate::digest::DigestKind::MeanScalar)
/// and pages of 8, the cache's defaults) that is what loses least on real text.
///
/// Three presets reproduce the released variants, with caches of
/// [`DigestKind::MinMax`](crate::digest::DigestKind::MinMax) and pages of 16:
/// [`accuracy_code`](Self::accuracy_code), [`kernels`](Self::kernels) and, for grouped-query models,
/// [`kv_group`](Self::kv_group).
#[derive(Config, Debug, PartialEq, Eq)]
pub struct QuestConfig {
    /// Tokens that a query may attend to, in whole pages (rounded down).
    #[config(default = 2048)]
    pub token_budget: usize,
    /// Leading layers that read every page. The paper has two of them; with digests of means real text
    /// loses less without.
    #[config(default = 0)]
    pub dense_layers: usize,
    /// Which query heads share a page list.
    #[config(default = "PageSharing::KvHead")]
    pub sharing: PageSharing,
    /// How the scores of query heads that share a list become one.
    #[config(default = "GroupRule::Max")]
    pub group_rule: GroupRule,
    /// What the deviations of a digest are multiplied by; none for what
    /// [the kind of digest](crate::digest::DigestKind::deviations) takes by itself.
    #[config(default = "None")]
    pub deviations: Option<FixedPoint>,
    /// How the newest page takes part.
    #[config(default = "NewestPage::Pinned")]
    pub newest_page: NewestPage,
    /// Pages that are read at least, whatever the budget.
    #[config(default = 1)]
    pub min_pages: usize,
    /// First pages of the context that are always read; they count towards the budget. A budget of one
    /// page holds the newest page rather than the first.
    #[config(default = 1)]
    pub sink_pages: usize,
    /// Last pages of the context that are always read, the newest one among them; they count towards
    /// the budget.
    #[config(default = 0)]
    pub recent_pages: usize,
}

/// A [`QuestConfig`] that cannot be used.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuestConfigError {
    /// Pages of that size are in no cache.
    #[error("page size: expected a power of two from 8 to 128, found {0}")]
    PageSize(usize),
    /// No token may be attended to.
    #[error("token budget: expected at least 1 token, found 0")]
    NoBudget,
    /// The token budget does not hold one page.
    #[error("token budget: expected at least one page of {page_size} tokens, found {token_budget}")]
    TokenBudget {
        /// The budget that was given, in tokens.
        token_budget: usize,
        /// Tokens per page.
        page_size: usize,
    },
    /// No page would be read.
    #[error("smallest page count: expected at least 1, found 0")]
    MinPages,
    /// The pages that are always read do not fit into the budget.
    #[error(
        "always-kept pages: expected at most the budget of {budget_pages} pages, found \
         {sink_pages} first pages{}", match .recent_pages {
            0 => String::new(),
            1 => " and the newest page".to_owned(),
            n => format!(" and {n} recent pages"),
        }
    )]
    AlwaysKept {
        /// First pages that are always read.
        sink_pages: usize,
        /// Last pages that are always read.
        recent_pages: usize,
        /// Pages that the budget holds.
        budget_pages: usize,
    },
}

impl QuestConfig {
    /// The released accuracy code: a list per query head, the newest page competes, at least
    /// three pages.
    pub fn accuracy_code() -> Self {
        Self::kernels()
            .with_newest_page(NewestPage::Competes)
            .with_min_pages(3)
    }

    /// The released CUDA kernels: a list per query head, the newest page pinned.
    pub fn kernels() -> Self {
        Self::kv_group().with_sharing(PageSharing::QueryHead)
    }

    /// The kernels' selection with one list per KV head.
    ///
    /// Equals [`kernels`](Self::kernels) for multi-head attention.
    pub fn kv_group() -> Self {
        Self::new().with_sink_pages(0).with_dense_layers(2)
    }

    /// Pages of `page_size` tokens that a query may read: the budget in whole pages, but no fewer than
    /// `min_pages`.
    pub fn budget_pages(&self, page_size: usize) -> usize {
        (self.token_budget / page_size.max(1))
            .max(self.min_pages)
            .max(1)
    }

    /// How pages of `page_size` tokens are chosen. Where the budget does not hold all pages that are
    /// always read ([`validate_for`](Self::validate_for) says so), it holds the last ones rather than
    /// the first.
    pub fn selection(&self, page_size: usize) -> PageSelection {
        let k = self.budget_pages(page_size);
        let recent_pages = self.always_recent_pages().min(k);
        PageSelection {
            k,
            sink_pages: self.sink_pages.min(k - recent_pages),
            recent_pages,
        }
    }

    /// Last pages that are always read: `recent_pages`, or the newest one where it is pinned.
    fn always_recent_pages(&self) -> usize {
        let newest = usize::from(self.newest_page == NewestPage::Pinned);
        self.recent_pages.max(newest)
    }

    /// How a layer chooses its pages in a step, unless it reads all of them.
    pub(super) fn layer_selection(&self, cache: &LayerCache, step: &Step) -> Option<PageSelection> {
        let selection = self.selection(step.page_size());
        let dense = cache.index() < self.dense_layers || selection.covers(step);
        (!dense).then_some(selection)
    }

    /// Tokens that a query head reads at most in a layer of so many, in pages of `page_size`.
    pub(super) fn tokens_read(&self, layer: usize, length: usize, page_size: usize) -> usize {
        match layer < self.dense_layers {
            true => length,
            false => length.min(self.budget_pages(page_size) * page_size),
        }
    }

    /// How pages are scored.
    pub fn scoring(&self) -> PageScoring {
        PageScoring {
            sharing: self.sharing,
            group_rule: self.group_rule,
            deviations: self.deviations,
        }
    }

    /// Checks what does not depend on the size of the cache's pages.
    ///
    /// # Errors
    ///
    /// See [`QuestConfigError`].
    pub fn validate(&self) -> Result<(), QuestConfigError> {
        if self.token_budget == 0 {
            return Err(QuestConfigError::NoBudget);
        }
        if self.min_pages == 0 {
            return Err(QuestConfigError::MinPages);
        }
        Ok(())
    }

    /// Checks that the values make sense together in a cache with pages of `page_size` tokens.
    ///
    /// # Errors
    ///
    /// See [`QuestConfigError`].
    pub fn validate_for(&self, page_size: usize) -> Result<(), QuestConfigError> {
        validate_page_size(page_size).map_err(|_| QuestConfigError::PageSize(page_size))?;
        if self.token_budget < page_size {
            return Err(QuestConfigError::TokenBudget {
                token_budget: self.token_budget,
                page_size,
            });
        }
        self.validate()?;
        let budget_pages = self.budget_pages(page_size);
        let recent_pages = self.always_recent_pages();
        let is_held = self.sink_pages.saturating_add(recent_pages) <= budget_pages;
        let is_newest_alone = (budget_pages, recent_pages, self.sink_pages) == (1, 1, 1);
        if !is_held && !is_newest_alone {
            return Err(QuestConfigError::AlwaysKept {
                sink_pages: self.sink_pages,
                recent_pages,
                budget_pages,
            });
        }
        Ok(())
    }

    /// The policy that selects pages as configured.
    ///
    /// # Errors
    ///
    /// When [`validate`](Self::validate) fails.
    pub fn init(&self) -> Result<QuestPolicy, QuestConfigError> {
        self.validate()?;
        Ok(QuestPolicy::of(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_differ_as_released() {
        for preset in [
            QuestConfig::accuracy_code(),
            QuestConfig::kernels(),
            QuestConfig::kv_group(),
        ] {
            preset.validate_for(16).unwrap();
        }
        assert_eq!(
            QuestConfig::accuracy_code()
                .with_token_budget(16)
                .budget_pages(16),
            3
        );
        assert_eq!(
            QuestConfig::kernels()
                .with_token_budget(16)
                .budget_pages(16),
            1
        );
        assert_eq!(
            QuestConfig::kv_group(),
            QuestConfig::new().with_sink_pages(0).with_dense_layers(2)
        );
    }

    #[test]
    fn page_size_must_be_a_power_of_two_from_8_to_128() {
        let config = QuestConfig::new();
        for bad in [0, 4, 12, 24, 256] {
            assert_eq!(
                config.validate_for(bad),
                Err(QuestConfigError::PageSize(bad))
            );
        }
        for good in [8, 16, 32, 64, 128] {
            config.validate_for(good).unwrap();
        }
    }

    #[test]
    fn a_budget_below_one_page_is_refused() {
        let config = QuestConfig::new().with_token_budget(15);
        let error = config.validate_for(16).unwrap_err();
        assert_eq!(
            error.to_string(),
            "token budget: expected at least one page of 16 tokens, found 15"
        );
    }

    #[test]
    fn always_kept_pages_must_fit_into_the_budget() {
        let config = QuestConfig::new().with_token_budget(64).with_sink_pages(4);
        assert_eq!(
            config.validate_for(16).unwrap_err().to_string(),
            "always-kept pages: expected at most the budget of 4 pages, found 4 first pages and \
             the newest page"
        );
        config
            .clone()
            .with_newest_page(NewestPage::Competes)
            .validate_for(16)
            .unwrap();
        let error = config.with_recent_pages(3).validate_for(16).unwrap_err();
        assert_eq!(
            error.to_string(),
            "always-kept pages: expected at most the budget of 4 pages, found 4 first pages and 3 \
             recent pages"
        );
    }

    #[test]
    fn a_budget_of_one_page_holds_the_newest_page() {
        let config = QuestConfig::new().with_token_budget(16);
        assert_eq!(config.selection(16).sink_pages, 0);
        config.validate_for(16).unwrap();
        let two = config.with_token_budget(32);
        assert_eq!(two.selection(16).sink_pages, 1);
        let two_first = two.with_token_budget(16).with_sink_pages(2);
        assert!(two_first.validate_for(16).is_err());
    }

    #[test]
    fn the_newest_page_is_one_of_the_recent_pages() {
        let recent = |config: QuestConfig| config.always_recent_pages();
        assert_eq!(recent(QuestConfig::new()), 1);
        assert_eq!(recent(QuestConfig::new().with_recent_pages(3)), 3);
        assert_eq!(recent(QuestConfig::accuracy_code()), 0);
    }

    #[test]
    fn no_smallest_page_count_is_refused() {
        let config = QuestConfig::new().with_min_pages(0);
        assert_eq!(config.validate(), Err(QuestConfigError::MinPages));
    }

    #[test]
    fn a_selection_fits_pages_of_any_size() {
        let config = QuestConfig::new()
            .with_token_budget(64)
            .with_sink_pages(3)
            .with_recent_pages(2);
        for page_size in [8, 16, 32, 64, 128] {
            let PageSelection {
                k,
                sink_pages,
                recent_pages,
            } = config.selection(page_size);
            assert_eq!(k, (64 / page_size).max(1), "{page_size}");
            assert_eq!(recent_pages, k.min(2), "{page_size}");
            assert_eq!(sink_pages, (k - recent_pages).min(3), "{page_size}");
        }
    }

    #[test]
    fn an_empty_budget_is_refused_whatever_the_pages() {
        let config = QuestConfig::new().with_token_budget(0);
        assert_eq!(config.init().unwrap_err(), QuestConfigError::NoBudget);
    }
}
