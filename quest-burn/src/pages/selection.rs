use burn::config::Config;

use crate::cache::Step;

/// Which query heads read the same list of pages.
#[derive(Config, Debug, Copy, PartialEq, Eq, Hash)]
pub enum PageSharing {
    /// Every query head has a list of its own, as in the released code.
    QueryHead,
    /// The query heads that share a KV head share one list, so that each page is read once for the
    /// whole group; a [`GroupRule`](super::GroupRule) makes one score of theirs.
    KvHead,
}

/// How the best pages are chosen by their scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSelection {
    /// Pages to keep, of each sequence that has more.
    pub k: usize,
    /// First pages that are always kept; they count towards `k`.
    pub sink_pages: usize,
    /// Last pages that are always kept, that of the newest token among them; they count towards `k`.
    pub recent_pages: usize,
}

impl PageSelection {
    /// Pages that are kept of each sequence.
    pub fn counts(&self, step: &Step) -> Vec<usize> {
        (0..step.batch())
            .map(|sequence| self.k.min(step.pages(sequence).len()))
            .collect()
    }

    /// Whether a page of a sequence with `n_pages` pages is kept whatever its score.
    pub(crate) fn always_keeps(&self, page: usize, n_pages: usize) -> bool {
        page < self.sink_pages || page + self.recent_pages >= n_pages
    }

    /// Whether every page of every sequence is kept.
    pub fn covers(&self, step: &Step) -> bool {
        step.max_pages() <= self.k
    }
}
