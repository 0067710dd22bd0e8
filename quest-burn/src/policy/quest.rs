use burn::tensor::Tensor;

use super::{PagePolicy, PageSelection, Pages};
use crate::{
    QuestConfig,
    cache::{LayerCache, Step},
    ops,
};

/// Reads the pages whose digests promise the highest attention scores
/// ([Quest](https://arxiv.org/abs/2406.10774), section 3).
///
/// Should be created using [`QuestConfig`].
#[derive(Clone, Debug)]
pub struct QuestPolicy {
    config: QuestConfig,
}

impl QuestPolicy {
    pub(crate) fn new(config: QuestConfig) -> Self {
        Self { config }
    }

    /// How the pages are chosen.
    pub fn config(&self) -> &QuestConfig {
        &self.config
    }
}

impl PagePolicy for QuestPolicy {
    /// # Panics
    ///
    /// When the cache's pages are not of the configured size.
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step) -> Pages {
        let config = &self.config;
        assert_eq!(
            config.page_size,
            step.page_size(),
            "page size of the Quest policy and of the KV cache"
        );
        let selection = PageSelection {
            k: config.budget_pages(),
            newest_page: config.newest_page,
            sink_pages: config.sink_pages,
        };
        if cache.index() < config.dense_layers || selection.covers(step) {
            return Pages::All;
        }
        let scores = ops::page_scores(query.clone(), cache, step, config.sharing);
        ops::top_pages(scores, step, &selection)
    }
}
