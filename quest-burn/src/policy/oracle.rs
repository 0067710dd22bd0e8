use burn::tensor::Tensor;

use super::{
    PagePolicy, Pages, PolicyError, QuestConfig,
    options::{Given, policy_options},
};
use crate::{
    cache::{LayerCache, Step},
    ops,
    pages::GroupRule,
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
    /// When [`QuestConfig::validate_for`] fails.
    pub fn new(
        config: QuestConfig,
        options: OracleOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        config.validate_for(page_size)?;
        let group_rule = options.group.0.unwrap_or(config.group_rule);
        let config = config.with_group_rule(group_rule);
        Ok(Self { config })
    }
}

policy_options! {
    /// How the oracle scores pages, where that is not left to [`QuestConfig`].
    OracleOptions {
        group: Given<GroupRule> = Given(None), "group",
            "how the scores of a KV head's query heads become its own: max or mean";
    }
}

impl PagePolicy for OraclePolicy {
    fn tokens_read(&self, layer: usize, length: usize, page_size: usize) -> Option<usize> {
        Some(self.config.tokens_read(layer, length, page_size))
    }

    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let Some(selection) = self.config.layer_selection(cache, step) else {
            return Pages::All;
        };
        let scores = ops::true_page_scores(query.clone(), cache, step, self.config.scoring());
        ops::top_pages(scores, step, &selection)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::{
        cache::{PagedKvCache, PagedKvCacheConfig},
        digest::DigestKind,
        policy::{NewestPage, PageSharing},
    };

    /// Pages that each head reads of a sequence of 24 tokens with two channels.
    fn pages(policy: &dyn PagePolicy, key: impl Fn(usize) -> [f32; 2], query: &[f32]) -> Vec<i64> {
        let device = Device::default();
        let config =
            PagedKvCacheConfig::for_tokens(1, 1, 2, 8, 1, 24).with_digest(DigestKind::MinMax);
        let mut cache = config.init(&device, DType::F32).unwrap();
        let append = |cache: &mut PagedKvCache, step: &Step| {
            let tokens = step.starts()[0]..step.lengths()[0];
            let shape = [1, 1, tokens.len(), 2];
            let rows = TensorData::new(tokens.flat_map(&key).collect::<Vec<_>>(), shape);
            let rows = Tensor::<4>::from_data(rows, &device);
            ops::append(cache.layer_mut(0), rows.clone(), rows, step);
        };
        let step = cache.prefill(&[21]).unwrap();
        append(&mut cache, &step);
        let step = cache.decode().unwrap();
        append(&mut cache, &step);
        let query = TensorData::new(query.to_vec(), [1, query.len() / 2, 2]);
        let query = Tensor::from_data(query, &device);
        let pages = policy.select(&query, cache.layer(0), &step, 1.0);
        let Pages::Listed { ids, .. } = pages else {
            panic!("a list of pages was expected");
        };
        ids.into_data().convert::<i64>().try_to_vec().unwrap()
    }

    fn config() -> QuestConfig {
        QuestConfig::kv_group()
            .with_token_budget(8)
            .with_newest_page(NewestPage::Competes)
            .with_dense_layers(0)
    }

    /// Page 0 has its extremes in different keys, which the digest does not know.
    fn key(token: usize) -> [f32; 2] {
        match token {
            1 => [1.0, -1.0],
            5 => [-1.0, 1.0],
            12 => [0.8, 0.8],
            _ => [0.0, 0.0],
        }
    }

    #[test]
    fn it_is_not_misled_by_digests() {
        let query = [1.0, 1.0];
        assert_eq!(pages(&config().init().unwrap(), key, &query), [0]);
        let oracle = OraclePolicy::new(config(), OracleOptions::DEFAULT, 8).unwrap();
        assert_eq!(pages(&oracle, key, &query), [1]);
    }

    #[test]
    fn empty_rows_of_the_newest_page_are_no_tokens() {
        // All products are negative; a row without a token would have the highest one, zero.
        let key = |token: usize| [-1.0 - token as f32 / 8.0, 0.0];
        let oracle = OraclePolicy::new(config(), OracleOptions::DEFAULT, 8).unwrap();
        assert_eq!(pages(&oracle, key, &[1.0, 0.0]), [0]);
    }

    #[test]
    fn heads_share_their_list_as_with_quest() {
        let queries = [1.0, 1.0, 3.0, -3.0];
        let shared = OraclePolicy::new(config(), OracleOptions::DEFAULT, 8).unwrap();
        assert_eq!(pages(&shared, key, &queries), [0]);
        let own = config().with_sharing(PageSharing::QueryHead);
        let own = OraclePolicy::new(own, OracleOptions::DEFAULT, 8).unwrap();
        assert_eq!(pages(&own, key, &queries), [1, 0]);
    }
}
