use burn::tensor::Tensor;

use super::{PagePolicy, Pages, PolicyConfig, PolicyError, QuestConfig};
use crate::{
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

impl TryFrom<&PolicyConfig> for QuestPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        Ok(config.quest.init()?)
    }
}

impl PagePolicy for QuestPolicy {
    fn tokens_read(&self, layer: usize, length: usize, page_size: usize) -> Option<usize> {
        Some(self.config.tokens_read(layer, length, page_size))
    }

    fn is_capturable(&self) -> bool {
        true
    }

    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let Some(selection) = self.config.layer_selection(cache, step) else {
            return Pages::All;
        };
        let scores = ops::page_scores(query.clone(), cache, step, self.config.sharing);
        ops::top_pages(scores, step, &selection)
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        match self.config.layer_selection(cache, step) {
            Some(selection) => {
                let sharing = self.config.sharing;
                ops::best_attention(query, cache, step, &selection, sharing, scale)
            }
            None => ops::paged_attention(query, cache, &Pages::All, step, scale),
        }
    }
}
