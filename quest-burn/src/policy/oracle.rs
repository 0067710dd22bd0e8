use burn::tensor::Tensor;

use super::{PagePolicy, PageSelection, Pages, PolicyConfig, PolicyError};
use crate::{
    QuestConfig, QuestConfigError,
    cache::{LayerCache, Step},
    ops,
};

/// Reads the pages that hold the keys with the highest products with the query: what Quest would
/// choose if its digests told the truth.
///
/// It computes every score of every key, so it says how few pages are enough, not how fast a
/// choice can be.
#[derive(Clone, Debug)]
pub struct OraclePolicy {
    config: QuestConfig,
}

impl OraclePolicy {
    /// An oracle with the budget of Quest, and everything else that Quest decides but the scores.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate`] fails.
    pub fn new(config: QuestConfig) -> Result<Self, QuestConfigError> {
        config.validate()?;
        Ok(Self { config })
    }
}

impl TryFrom<&PolicyConfig> for OraclePolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        Ok(Self::new(config.quest.clone())?)
    }
}

impl PagePolicy for OraclePolicy {
    /// # Panics
    ///
    /// When the cache's pages are not of the configured size.
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let Some(selection) = PageSelection::of(&self.config, cache, step) else {
            return Pages::All;
        };
        let scores = ops::true_page_scores(query.clone(), cache, step, self.config.sharing);
        ops::top_pages(scores, step, &selection)
    }
}
