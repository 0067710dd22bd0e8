use burn::tensor::{DType, Tensor, TensorData};

use super::{
    NewestPage, PagePolicy, PageSharing, Pages, PolicyError, QuestConfig, options::policy_options,
};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

policy_options! {
    /// Options of a [`RecentPolicy`].
    RecentOptions {
        sinks: usize = 1, "sinks", "First pages that are always read";
    }
}

/// Reads the first pages and the newest ones: what a comparison of policies has to beat.
///
/// It is StreamingLLM in whole pages, with tokens at their places in the text.
#[derive(Clone, Debug)]
pub struct RecentPolicy {
    quest: QuestConfig,
}

impl RecentPolicy {
    /// The policy, with the budget and dense layers of `quest`, and the larger number of
    /// first pages.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails, or the budget holds no page besides the first ones.
    pub fn new(
        quest: QuestConfig,
        options: RecentOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        quest.validate_for(page_size)?;
        let sinks = quest.selection(page_size).sink_pages.max(options.sinks);
        let least = (sinks.saturating_add(1)).saturating_mul(page_size);
        if quest.budget_pages(page_size) <= sinks {
            return Err(PolicyError::TokenBudget {
                policy: "recent",
                least,
                why: "the first pages and the newest",
                found: quest.token_budget,
            });
        }
        let quest = quest
            .with_sink_pages(sinks)
            .with_newest_page(NewestPage::Pinned);
        Ok(Self { quest })
    }
}

impl PagePolicy for RecentPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let Some(selection) = self.quest.layer_selection(cache, step) else {
            return Pages::All;
        };
        let heads = match self.quest.sharing {
            PageSharing::QueryHead => query.dims()[1],
            PageSharing::KvHead => cache.dims()[1],
        };
        // Later pages score higher.
        let n = step.max_pages();
        let scores = TensorData::new((0..n).map(|page| page as f32).collect(), [1, 1, n]);
        let scores = Tensor::<3>::from_data(scores, (&query.device(), DType::F32));
        let scores = scores.repeat(&[step.batch(), heads, 1]);
        ops::top_pages(scores, step, &selection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Read,
        fixture::{Weighted, assert_close, observed},
    };

    fn config(budget_pages: usize) -> QuestConfig {
        QuestConfig::new()
            .with_token_budget(8 * budget_pages)
            .with_sink_pages(0)
            .with_dense_layers(0)
    }

    #[test]
    fn the_first_pages_and_the_newest_are_read() {
        for (options, expected) in [("sinks=1", [0, 3, 4]), ("sinks=2", [0, 1, 4])] {
            let policy = RecentPolicy::new(config(3), options.parse().unwrap(), 8);
            let policy = observed(policy.unwrap());
            let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 32]);
            let (read, output) = layer.decode(&policy, &[1.0], &[1.0]);
            assert_eq!(read, Read::Pages(vec![expected.to_vec()]));
            // Whole pages of eight, the newest with one token.
            let [first, second, _] = expected.map(|page| 8.0 * (8.0 * page as f32 + 3.5));
            assert_close(&output, &[(first + second + 32.0) / 17.0]);
        }
    }

    #[test]
    fn a_budget_without_room_for_the_newest_page_is_refused() {
        let error = RecentPolicy::new(config(2), "sinks=2".parse().unwrap(), 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "token budget of recent: expected at least 24 (the first pages and the newest), found 16"
        );
    }
}
