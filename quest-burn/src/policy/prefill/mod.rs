//! What the tokens of a prompt attend to.

mod config;
mod lazy;
mod positioned;
mod rows;

use burn::tensor::Tensor;

use self::rows::QueryRows;
pub use self::{
    config::{PrefillConfig, PrefillConfigError, QuestPrefillConfig},
    lazy::{LazyPrefillConfig, LazyStage},
    positioned::PositionedPrefill,
};
use super::{PagePolicy, Pages};
use crate::{
    cache::{LayerCache, Step},
    ops,
    pages::{GroupRule, PageScoring, PageSharing, PastPages},
};

/// Prompts by page digests: the new tokens of a pass attend to themselves and to those pages of the past whose
/// digests promise the highest attention scores to some of their queries. Decoded tokens read every page.
///
/// A few queries, evenly spread, score the pages. What a page is worth to one of them is the distance of its
/// score to that query's highest, so that queries with large scores do not outvote the others; a page is worth
/// what it is to the query that wants it most. Each KV head has one list.
///
/// Should be created using [`QuestPrefillConfig`].
#[derive(Clone, Debug)]
pub struct QuestPrefill {
    config: QuestPrefillConfig,
}

impl QuestPrefill {
    /// How the pages are chosen.
    pub fn config(&self) -> &QuestPrefillConfig {
        &self.config
    }

    /// The pages of the past that the new tokens of a step attend to, which are in the cache already; none
    /// where that is all of them.
    ///
    /// # Shapes
    ///
    /// - query (after RoPE): `[batch, n_heads, max_new_tokens, head_dim]`
    pub fn past_pages(
        &self,
        query: &Tensor<4>,
        cache: &LayerCache,
        step: &Step,
    ) -> Option<PastPages> {
        let selection = self.config.selection(step.page_size());
        let longest = (0..step.batch()).map(|sequence| step.past_pages(sequence));
        if longest.max().unwrap_or(0) <= selection.k {
            return None;
        }
        let scoring = PageScoring {
            sharing: PageSharing::QueryHead,
            group_rule: GroupRule::Max,
            deviations: None,
        };
        let [_, n_kv_heads, _, _] = cache.dims();
        let [_, n_heads, _, _] = query.dims();
        let rows = QueryRows::of(step, self.config.query_rows, n_heads / n_kv_heads);
        let queries = rows.take(query, n_kv_heads);
        let scores = ops::page_scores(queries, cache, rows.step(), scoring);
        let scores = rows.merge(scores, n_kv_heads);
        match ops::top_pages(scores, rows.past(), &selection) {
            Pages::Listed { ids, counts } => Some(PastPages { ids, counts }),
            Pages::All | Pages::Tokens(_) => None,
        }
    }
}

impl PagePolicy for QuestPrefill {
    fn select(&self, _query: &Tensor<3>, _cache: &LayerCache, _step: &Step, _scale: f64) -> Pages {
        Pages::All
    }

    fn prefill_attention(
        &self,
        query: Tensor<4>,
        cache: &LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<4> {
        match self.past_pages(&query, cache, step) {
            Some(past) => ops::sparse_prefill_attention(query, cache, &past, step, scale),
            None => ops::prefill_attention(query, cache, step, scale),
        }
    }
}
