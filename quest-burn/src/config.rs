use burn::config::Config;
use thiserror::Error;

use crate::policy::QuestPolicy;

/// Which query heads read the same list of pages.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum PageSharing {
    /// Every query head has a list of its own, as in the released code.
    QueryHead,
    /// The query heads that share a KV head share one list; a page's score is the maximum over
    /// them, so that each page is read once for the whole group.
    KvHead,
}

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
/// By default the query heads of a KV head share one list, and the first and the newest page are always
/// read: with digests of means ([`DigestKind::MeanVar`](crate::digest::DigestKind::MeanVar), the
/// cache's default) that is what loses least on real text.
///
/// Three presets reproduce the released variants, with caches of
/// [`DigestKind::MinMax`](crate::digest::DigestKind::MinMax):
/// [`accuracy_code`](Self::accuracy_code), [`kernels`](Self::kernels) and, for grouped-query models,
/// [`kv_group`](Self::kv_group).
#[derive(Config, Debug, PartialEq, Eq)]
pub struct QuestConfig {
    /// Tokens per page: a power of two from 8 to 128.
    #[config(default = 16)]
    pub page_size: usize,
    /// Tokens that a query may attend to, in whole pages (rounded down).
    #[config(default = 2048)]
    pub token_budget: usize,
    /// Leading layers that read every page; their attention is not sparse.
    #[config(default = 2)]
    pub dense_layers: usize,
    /// Which query heads share a page list.
    #[config(default = "PageSharing::KvHead")]
    pub sharing: PageSharing,
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
pub enum QuestConfigError {
    /// The page size is not a power of two from 8 to 128.
    #[error("page size: expected a power of two from 8 to 128, found {0}")]
    PageSize(usize),
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
        Self::new().with_sink_pages(0)
    }

    /// Pages that a query may read: the budget in whole pages, but no fewer than `min_pages`.
    pub fn budget_pages(&self) -> usize {
        (self.token_budget / self.page_size).max(self.min_pages)
    }

    /// First pages that are always read: `sink_pages`, or none where the one page of the budget is the
    /// newest.
    pub fn always_sink_pages(&self) -> usize {
        let is_taken = self.budget_pages() == 1 && self.always_recent_pages() == 1;
        match self.sink_pages {
            1 if is_taken => 0,
            sink_pages => sink_pages,
        }
    }

    /// Last pages that are always read: `recent_pages`, or the newest one where it is pinned.
    pub fn always_recent_pages(&self) -> usize {
        let newest = usize::from(self.newest_page == NewestPage::Pinned);
        self.recent_pages.max(newest)
    }

    /// Checks that the values make sense together.
    ///
    /// # Errors
    ///
    /// See [`QuestConfigError`].
    pub fn validate(&self) -> Result<(), QuestConfigError> {
        validate_page_size(self.page_size)?;
        if self.token_budget < self.page_size {
            return Err(QuestConfigError::TokenBudget {
                token_budget: self.token_budget,
                page_size: self.page_size,
            });
        }
        if self.min_pages == 0 {
            return Err(QuestConfigError::MinPages);
        }
        let recent_pages = self.always_recent_pages();
        if self.always_sink_pages().saturating_add(recent_pages) > self.budget_pages() {
            return Err(QuestConfigError::AlwaysKept {
                sink_pages: self.sink_pages,
                recent_pages,
                budget_pages: self.budget_pages(),
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
        Ok(QuestPolicy::new(self.clone()))
    }
}

pub(crate) fn validate_page_size(page_size: usize) -> Result<(), QuestConfigError> {
    if page_size.is_power_of_two() && (8..=128).contains(&page_size) {
        Ok(())
    } else {
        Err(QuestConfigError::PageSize(page_size))
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
            preset.validate().unwrap();
        }
        assert_eq!(
            QuestConfig::accuracy_code()
                .with_token_budget(16)
                .budget_pages(),
            3
        );
        assert_eq!(
            QuestConfig::kernels().with_token_budget(16).budget_pages(),
            1
        );
        assert_eq!(
            QuestConfig::kv_group(),
            QuestConfig::new().with_sink_pages(0)
        );
    }

    #[test]
    fn page_size_must_be_a_power_of_two_from_8_to_128() {
        for bad in [0, 4, 12, 24, 256] {
            let config = QuestConfig::new().with_page_size(bad);
            assert_eq!(config.validate(), Err(QuestConfigError::PageSize(bad)));
        }
        for good in [8, 16, 32, 64, 128] {
            QuestConfig::new().with_page_size(good).validate().unwrap();
        }
    }

    #[test]
    fn a_budget_below_one_page_is_refused() {
        let error = QuestConfig::new().with_token_budget(15).init().unwrap_err();
        assert_eq!(
            error.to_string(),
            "token budget: expected at least one page of 16 tokens, found 15"
        );
    }

    #[test]
    fn always_kept_pages_must_fit_into_the_budget() {
        let config = QuestConfig::new().with_token_budget(64).with_sink_pages(4);
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "always-kept pages: expected at most the budget of 4 pages, found 4 first pages and \
             the newest page"
        );
        config
            .clone()
            .with_newest_page(NewestPage::Competes)
            .validate()
            .unwrap();
        let error = config.with_recent_pages(3).validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "always-kept pages: expected at most the budget of 4 pages, found 4 first pages and 3 \
             recent pages"
        );
    }

    #[test]
    fn a_budget_of_one_page_holds_the_newest_page() {
        let config = QuestConfig::new().with_token_budget(16);
        assert_eq!(config.always_sink_pages(), 0);
        config.validate().unwrap();
        let two = config.with_token_budget(32);
        assert_eq!(two.always_sink_pages(), 1);
        let two_first = two.with_token_budget(16).with_sink_pages(2);
        assert!(two_first.validate().is_err());
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
}
