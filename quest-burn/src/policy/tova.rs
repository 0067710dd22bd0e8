use burn::{config::Config, tensor::Tensor};

use super::{
    PagePolicy, Pages, PolicyConfig, PolicyError,
    eviction::{Eviction, KeptBy},
};
use crate::cache::{LayerCache, Step};

/// Settings of a [`TovaPolicy`].
#[derive(Config, Debug, PartialEq, Eq)]
pub struct TovaConfig {
    /// Tokens that a query attends to, the newest included: one more than stay in between.
    #[config(default = 2048)]
    pub token_budget: usize,
    /// Leading layers that read every page.
    #[config(default = 2)]
    pub dense_layers: usize,
}

impl TovaConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// When the budget holds no token besides the newest.
    pub fn init(&self) -> Result<TovaPolicy, PolicyError> {
        if self.token_budget < 2 {
            return Err(PolicyError::TokenBudget {
                policy: "tova",
                least: 2,
                why: "the newest token and one that stays",
                found: self.token_budget,
            });
        }
        Ok(TovaPolicy {
            eviction: Eviction {
                budget: self.token_budget,
                recent: 0,
                accumulates: false,
                kept_by: KeptBy::Layer,
                dense_layers: self.dense_layers,
            },
        })
    }
}

/// Evicts, after each step, the token with the lowest attention of the newest query, averaged over
/// the heads of the layer ([TOVA](https://arxiv.org/abs/2401.06104)).
///
/// All heads of a layer keep the same tokens, at the positions that they had in the text. The newest
/// token has no privilege: it may be the one that is evicted. A prompt that does not fit into the
/// budget is treated as by [`H2oPolicy`](super::H2oPolicy).
#[derive(Clone, Debug)]
pub struct TovaPolicy {
    eviction: Eviction,
}

impl TryFrom<&PolicyConfig> for TovaPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        TovaConfig::new()
            .with_token_budget(config.quest.token_budget)
            .with_dense_layers(config.quest.dense_layers)
            .init()
    }
}

impl PagePolicy for TovaPolicy {
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

    fn tova(token_budget: usize) -> TovaPolicy {
        let config = TovaConfig::new().with_token_budget(token_budget);
        config.with_dense_layers(0).init().unwrap()
    }

    #[test]
    fn the_token_with_the_lowest_attention_averaged_over_heads_is_evicted_for_all_of_them() {
        let mut layer = Weighted::new(2).prompt(&[&[4., 1.], &[1., 5.], &[3., 2.]]);
        let policy = observed(tova(4));
        // Attention of the heads: .4 .1 .3 .2 and .1 .5 .2 .2, on average .25 .3 .25 .2
        let (read, output) = layer.decode(&policy, &[2., 2.], &[1., 1.]);
        assert_eq!(read, Read::All);
        assert_close(&output, &[1.3, 1.5]);
        // The newest token itself was evicted. Now .4 .1 .3 .2 and .05 .25 .1 .6 over 0, 1, 2, 4.
        let (read, output) = layer.decode(&policy, &[2., 12.], &[1., 1.]);
        let of_both = |tokens: [usize; 4]| Read::Tokens(vec![tokens.to_vec(); 2]);
        assert_eq!(read, of_both([0, 1, 2, 4]));
        assert_close(&output, &[0.1 + 0.6 + 0.8, 0.25 + 0.2 + 2.4]);
        // On average .225 .175 .2 .4: token 1 is gone.
        let (read, _) = layer.decode(&policy, &[1., 1.], &[1., 1.]);
        assert_eq!(read, of_both([0, 2, 4, 5]));
    }

    #[test]
    fn only_the_last_query_counts() {
        let mut layer = Weighted::new(1).prompt(&[&[9.], &[2.]]);
        let policy = observed(tova(4));
        layer.decode(&policy, &[3.], &[1.]);
        // Under a query of -1 the first token, until now the heaviest, has the lowest attention.
        layer.decode(&policy, &[4.], &[-1.]);
        let (read, _) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![1, 2, 3, 4]]));
    }

    #[test]
    fn a_prompt_beyond_the_budget_is_ranked_by_the_first_query_before_it_attends() {
        let weights: [&[f32]; 6] = [&[1.], &[8.], &[2.], &[1.], &[6.], &[1.]];
        let mut layer = Weighted::new(1).prompt(&weights);
        let policy = observed(tova(3));
        let (read, output) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![1, 2, 4]]));
        assert_close(&output, &[(8. + 2. * 2. + 6. * 4.) / 16.]);
        let (read, _) = layer.decode(&policy, &[1.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![1, 4, 7]]));
    }

    #[test]
    fn tokens_that_are_prefilled_later_are_ranked_by_the_next_query_alone() {
        let mut layer = Weighted::new(1).prompt(&[&[2.], &[10.]]);
        let policy = observed(tova(3));
        layer.decode(&policy, &[1.], &[1.]); // evicts itself
        let mut layer = layer.prompt(&[&[3.], &[4.]]);
        // Token 1 had most of the attention, now it has the least.
        let (read, _) = layer.decode(&policy, &[5.], &[-1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 3, 4]]));
    }

    #[test]
    fn truncation_makes_a_prompt_of_what_is_left() {
        let mut layer = Weighted::new(1).prompt(&[&[1.], &[2.], &[3.]]);
        let policy = observed(tova(3));
        layer.decode(&policy, &[4.], &[1.]);
        let (read, _) = layer.decode(&policy, &[5.], &[1.]);
        assert_eq!(read, Read::Tokens(vec![vec![2, 3, 4]]));
        layer.cache.truncate(0, 3).unwrap();
        let (read, _) = layer.decode(&policy, &[0.5], &[-1.]);
        assert_eq!(read, Read::Tokens(vec![vec![0, 1, 3]]));
    }

    #[test]
    fn a_budget_without_room_for_a_past_token_is_refused() {
        let error = TovaConfig::new().with_token_budget(1).init().unwrap_err();
        assert_eq!(
            error.to_string(),
            "token budget of tova: expected at least 2 (the newest token and one that stays), \
             found 1"
        );
    }
}
