use burn::{config::Config, tensor::Tensor};

use super::{
    PagePolicy, PageSharing, Pages, PolicyConfig, PolicyError,
    eviction::{Eviction, KeptBy},
};
use crate::cache::{LayerCache, Step};

/// Settings of an [`H2oPolicy`].
#[derive(Config, Debug, PartialEq, Eq)]
pub struct H2oConfig {
    /// Tokens that a query attends to, the newest included.
    #[config(default = 2048)]
    pub token_budget: usize,
    /// How many of them are the most recent ones; the others are heavy hitters. Half the budget
    /// when not given.
    pub recent_tokens: Option<usize>,
    /// Which query heads keep the same tokens: those of a KV head, whose attention then counts
    /// together, or none. The authors' models have as many KV heads as query heads.
    #[config(default = "PageSharing::KvHead")]
    pub sharing: PageSharing,
    /// Leading layers that read every page.
    #[config(default = 2)]
    pub dense_layers: usize,
}

impl H2oConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// When the budget does not hold the most recent tokens and one more.
    pub fn init(&self) -> Result<H2oPolicy, PolicyError> {
        let recent = self.recent_tokens.unwrap_or(self.token_budget / 2);
        let least = recent.max(1) + 1;
        if self.token_budget < least {
            return Err(PolicyError::TokenBudget {
                policy: "h2o",
                least,
                why: "the most recent tokens and a heavy hitter",
                found: self.token_budget,
            });
        }
        Ok(H2oPolicy {
            eviction: Eviction {
                budget: self.token_budget,
                recent,
                accumulates: true,
                kept_by: match self.sharing {
                    PageSharing::QueryHead => KeptBy::QueryHead,
                    PageSharing::KvHead => KeptBy::KvHead,
                },
                dense_layers: self.dense_layers,
            },
        })
    }
}

/// Keeps, per head, the tokens that have received the most attention, summed over all decoded
/// queries, and the most recent ones; the others are evicted for good
/// ([H2O](https://arxiv.org/abs/2306.14048)).
///
/// The attention of prompt tokens is dense and not counted, as in Quest's experiments with long
/// prompts. If a prompt does not fit into the budget, the first decoded query ranks its tokens: the
/// attention that it would pay to all of them decides which stay, beside the most recent, and it
/// attends to those only. Later queries read nothing else of the prompt. In the authors' code, the
/// first query attends to all of the prompt before anything is evicted.
///
/// Truncating a sequence makes a prompt of what it still holds.
#[derive(Clone, Debug)]
pub struct H2oPolicy {
    eviction: Eviction,
}

impl TryFrom<&PolicyConfig> for H2oPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        H2oConfig::new()
            .with_token_budget(config.quest.token_budget)
            .with_sharing(config.quest.sharing)
            .with_dense_layers(config.quest.dense_layers)
            .init()
    }
}

impl PagePolicy for H2oPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        self.eviction.select(query, cache, step, scale)
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        self.eviction.attention(query, cache, step, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Read,
        fixture::{Weighted, assert_close, observed},
    };

    fn h2o(config: H2oConfig) -> H2oPolicy {
        config.with_dense_layers(0).init().unwrap()
    }

    fn budget(token_budget: usize) -> H2oConfig {
        H2oConfig::new().with_token_budget(token_budget)
    }

    #[test]
    fn what_has_received_the_most_attention_stays_beside_the_most_recent() {
        let mut layer = Weighted::new(1).prompt(&[&[6.], &[1.], &[1.]]);
        let policy = observed(h2o(budget(4)));
        // Received: .6 .1 .1 .2; of the two lowest the older one leaves.
        let (read, output) = layer.decode(&policy, &[2.], &[1.]);
        assert_eq!(read, Read::All);
        assert_close(&output, &[0.1 + 0.2 + 0.6]);
        // Tokens 0, 2, 3, 4 receive .6 .1 .2 .1, together 1.2 .2 .4 .1; the last is too recent.
        let (read, _) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 2, 3, 4]]));
        // Tokens 0, 3, 4, 5 receive 1/16 3/16 6/16 6/16, together 1.26 .59 .48 .38: the first stays,
        // although this query gives it the least.
        let (read, output) = layer.decode(&policy, &[1.], &[-1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 3, 4, 5]]));
        assert_close(&output, &[(3. * 3. + 6. * 4. + 6. * 5.) / 16.]);
        let (read, _) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 3, 5, 6]]));
    }

    #[test]
    fn attention_counts_from_the_first_decoded_query_on_even_while_nothing_is_evicted() {
        let mut layer = Weighted::new(1).prompt(&[&[4.], &[1.]]);
        let policy = observed(h2o(budget(4).with_recent_tokens(Some(1))));
        layer.decode(&policy, &[1.], &[2.]); // received 16/18 1/18 1/18
        // And 1/13 4/13 4/13 4/13: the last one has received the least.
        layer.decode(&policy, &[1.], &[-1.]);
        let (read, _) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 1, 2, 4]]));
    }

    #[test]
    fn heads_keep_tokens_of_their_own() {
        let mut layer = Weighted::new(2).prompt(&[&[5., 1.], &[1., 5.]]);
        let policy = observed(h2o(budget(3)));
        layer.decode(&policy, &[1., 1.], &[1., 1.]);
        let (read, output) = layer.decode(&policy, &[1., 1.], &[1., 1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 2, 3], vec![1, 2, 3]]));
        assert_close(&output, &[5. / 7., 10. / 7.]);
    }

    #[test]
    fn the_query_heads_of_a_kv_head_share_tokens_or_not() {
        let queries = [1.0, -0.5];
        let read = |sharing| {
            let mut layer = Weighted::new(1).prompt(&[&[16.], &[1.], &[4.]]);
            let policy = observed(h2o(budget(4).with_sharing(sharing)));
            // Received: 16/22 1/22 4/22 1/22 by the one, 1/11 4/11 2/11 4/11 by the other head.
            layer.decode(&policy, &[1.], &queries);
            layer.decode(&policy, &[1.], &queries).0
        };
        let shared = vec![vec![0, 1, 3, 4]];
        assert_eq!(read(PageSharing::KvHead), Read::Tokens(shared));
        let own = vec![vec![0, 2, 3, 4], vec![1, 2, 3, 4]];
        assert_eq!(read(PageSharing::QueryHead), Read::Tokens(own));
    }

    #[test]
    fn a_prompt_beyond_the_budget_is_ranked_by_the_first_query_before_it_attends() {
        let weights: [&[f32]; 6] = [&[1.], &[8.], &[2.], &[7.], &[6.], &[1.]];
        let mut layer = Weighted::new(1).prompt(&weights);
        let policy = observed(h2o(budget(4)));
        let (read, output) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![1, 3, 5, 6]]));
        assert_close(&output, &[(8. + 21. + 5. + 6.) / 17.]);
    }

    #[test]
    fn tokens_that_are_prefilled_later_are_ranked_with_those_that_stayed() {
        let mut layer = Weighted::new(1).prompt(&[&[1.], &[9.], &[2.]]);
        let policy = observed(h2o(budget(4)));
        layer.decode(&policy, &[2.], &[1.]); // evicts token 0
        let mut layer = layer.prompt(&[&[50.], &[1.], &[1.]]);
        let (read, _) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![1, 4, 6, 7]]));
    }

    #[test]
    fn a_budget_without_room_for_a_heavy_hitter_is_refused() {
        let error = budget(8).with_recent_tokens(Some(8)).init().unwrap_err();
        assert_eq!(
            error.to_string(),
            "token budget of h2o: expected at least 9 (the most recent tokens and a heavy hitter), \
             found 8"
        );
        assert!(budget(1).init().is_err());
    }
}
