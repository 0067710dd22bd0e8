use burn::tensor::Tensor;

use super::{
    PagePolicy, Pages, PolicyError, QuestConfig,
    options::{Given, policy_options},
};
use crate::{
    FixedPoint,
    cache::{LayerCache, Step},
    ops,
    pages::GroupRule,
};

/// Reads the pages whose digests promise the highest attention scores
/// ([Quest](https://arxiv.org/abs/2406.10774), section 3).
///
/// Should be created using [`QuestConfig`].
#[derive(Clone, Debug)]
pub struct QuestPolicy {
    config: QuestConfig,
}

policy_options! {
    /// How Quest scores pages, where that is not left to [`QuestConfig`].
    QuestOptions {
        group: Given<GroupRule> = Given(None), "group",
            "how the scores of a KV head's query heads become its own: max or mean";
        deviations: Given<FixedPoint> = Given(None), "c",
            "what the deviations of mean-var and mean-scalar digests are multiplied by";
    }
}

impl QuestPolicy {
    /// Pages of `page_size` tokens as configured, scored as the options say.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails.
    pub fn new(
        config: QuestConfig,
        options: QuestOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        config.validate_for(page_size)?;
        let group_rule = options.group.0.unwrap_or(config.group_rule);
        let deviations = options.deviations.0.or(config.deviations);
        let config = config
            .with_group_rule(group_rule)
            .with_deviations(deviations);
        Ok(Self::of(config))
    }

    pub(super) fn of(config: QuestConfig) -> Self {
        Self { config }
    }

    /// How the pages are chosen.
    pub fn config(&self) -> &QuestConfig {
        &self.config
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
        let scores = ops::page_scores(query.clone(), cache, step, self.config.scoring());
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
                let scoring = self.config.scoring();
                ops::top_k_attention(query, cache, step, &selection, scoring, scale)
            }
            None => ops::paged_attention(query, cache, &Pages::All, step, scale),
        }
    }
}
