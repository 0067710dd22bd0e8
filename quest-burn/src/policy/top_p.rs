use core::num::NonZeroUsize;

use burn::tensor::Tensor;

use super::{
    PagePolicy, PageSelection, Pages, PolicyError, QuestConfig, Share,
    lists::{best, listed, scores_on_host},
    options::policy_options,
};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

policy_options! {
    /// Options of a [`TopPPolicy`].
    TopPOptions {
        mass: Share = Share::of_millionths(950_000), "mass",
            "Share of the attention, as the digests estimate it, that the pages must hold";
        min_pages: NonZeroUsize = NonZeroUsize::MIN, "min_pages", "Pages that are read at least";
    }
}

/// Reads as many of the best pages as hold a share of the attention, as far as the digests can
/// tell, and no more than the budget (after [Twilight](https://arxiv.org/abs/2502.02770), which
/// prunes what Quest selects by scores of single tokens).
///
/// The estimate takes each token of a page to have the page's score: a softmax over pages, each
/// weighted with the number of its tokens. Pages that are always read are among them. The lists of a
/// sequence are equally long: the head that needs the most pages decides. A context that the budget
/// covers is read whole, as through every policy.
///
/// The number of pages is known on the host only, so a step waits for the scores and cannot be
/// recorded.
#[derive(Clone, Debug)]
pub struct TopPPolicy {
    quest: QuestConfig,
    options: TopPOptions,
}

impl TopPPolicy {
    /// The policy, with the settings of `quest`; its budget is the upper bound.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails, or the budget does not hold the least number of pages.
    pub fn new(
        quest: QuestConfig,
        options: TopPOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        quest.validate_for(page_size)?;
        if quest.budget_pages(page_size) < options.min_pages.get() {
            return Err(PolicyError::TokenBudget {
                policy: "top-p",
                least: options.min_pages.get().saturating_mul(page_size),
                why: "the pages that are read at least",
                found: quest.token_budget,
            });
        }
        Ok(Self { quest, options })
    }

    /// How many of the best pages a list needs.
    ///
    /// `score` says what a page's score is before the softmax, `tokens` how many tokens a page holds.
    fn needed(
        &self,
        scores: &[f32],
        selection: &PageSelection,
        score: impl Fn(f32) -> f64,
        tokens: impl Fn(usize) -> usize,
    ) -> usize {
        let n = scores.len();
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |page: usize| (score(scores[page]) - score(most)).exp() * tokens(page) as f64;
        let worth = worth(scores, selection);
        let total = (0..n).map(weight).sum::<f64>();
        let always = (0..n).filter(|&page| selection.always_keeps(page, n));
        let min_pages = always.count().max(self.options.min_pages.get());
        let mut mass = 0.0;
        let mut k = 0;
        for page in super::lists::ranked(&worth) {
            if k >= min_pages && mass >= self.options.mass.value() * total {
                break;
            }
            mass += weight(page);
            k += 1;
        }
        k.min(selection.k)
    }
}

/// Scores with those of the pages that are always read above all others.
fn worth(scores: &[f32], selection: &PageSelection) -> Vec<f32> {
    let worth = scores.iter().enumerate().map(|(page, &score)| {
        match selection.always_keeps(page, scores.len()) {
            true => f32::INFINITY,
            false => score,
        }
    });
    worth.collect()
}

impl PagePolicy for TopPPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        let Some(selection) = self.quest.layer_selection(cache, step) else {
            return Pages::All;
        };
        let scores = ops::page_scores(query.clone(), cache, step, self.quest.scoring());
        let scores = scores_on_host(scores, step);
        let of_sequence = |(sequence, lists): (usize, &Vec<Vec<f32>>)| {
            let (length, size) = (step.lengths()[sequence], step.page_size());
            let tokens = |page: usize| length.min((page + 1) * size) - page * size;
            if step.pages(sequence).len() <= selection.k {
                let pages = 0..step.pages(sequence).len();
                return vec![pages.collect(); lists.len()];
            }
            let score = |product| cache.capped(scale * f64::from(product));
            let needed = |scores: &Vec<f32>| self.needed(scores, &selection, score, tokens);
            let k = lists.iter().map(needed).max().unwrap_or(0);
            let chosen = |scores: &Vec<f32>| best(&worth(scores, &selection), k);
            lists.iter().map(chosen).collect()
        };
        let lists = scores.iter().enumerate().map(of_sequence);
        listed(&lists.collect::<Vec<_>>(), &query.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Read,
        fixture::{Weighted, observed},
    };

    fn read(budget_pages: usize, options: &str, weights: &[[f32; 2]], sinks: usize) -> Read {
        let quest = QuestConfig::new()
            .with_token_budget(8 * budget_pages)
            .with_sink_pages(sinks)
            .with_dense_layers(0);
        let policy = TopPPolicy::new(quest, options.parse().unwrap(), 8).unwrap();
        // Pages of eight tokens of one weight, and the newest token of weight 8 and 8.
        let prompt = weights.iter().flat_map(|w| [&w[..]; 8]).collect::<Vec<_>>();
        let mut layer = Weighted::new(2).prompt(&prompt);
        layer.decode(&observed(policy), &[8.0, 8.0], &[1.0, 1.0]).0
    }

    /// Of the first head, pages have 4, 20, 2, 1, 5 of 33 eighths with the newest token.
    const WEIGHTS: [[f32; 2]; 5] = [[4., 1.], [20., 1.], [2., 1.], [1., 24.], [5., 1.]];

    #[test]
    fn as_many_pages_are_read_as_hold_the_mass() {
        // Page 1 and the newest token hold 21 of 33, with page 4 26, with page 0 30.
        let lists = |read: Read| match read {
            Read::Pages(lists) => lists,
            other => panic!("lists of pages were expected, found {other:?}"),
        };
        let first = |options: &str| lists(read(5, options, &WEIGHTS, 0))[0].clone();
        assert_eq!(first("mass=0.6"), [1, 5]);
        assert_eq!(first("mass=0.7"), [1, 4, 5]);
        assert_eq!(first("mass=0.85"), [0, 1, 4, 5]);
        assert_eq!(first("mass=0.6,min_pages=4"), [0, 1, 4, 5]);
        assert_eq!(first("mass=1"), [0, 1, 2, 4, 5], "the budget bounds it");
    }

    #[test]
    fn the_head_that_needs_the_most_pages_decides() {
        let read = read(5, "mass=0.85", &WEIGHTS, 0);
        // The second head has 25 of 29 on page 3 and the newest token; equal pages are taken in
        // their order.
        let lists = vec![vec![0, 1, 4, 5], vec![0, 1, 3, 5]];
        assert_eq!(read, Read::Pages(lists));
    }

    #[test]
    fn pages_that_are_always_read_are_among_them() {
        let Read::Pages(lists) = read(5, "mass=0.1", &WEIGHTS, 2) else {
            panic!("lists of pages were expected");
        };
        assert_eq!(lists[0], [0, 1, 5]);
    }

    #[test]
    fn a_context_that_the_budget_covers_is_read_whole() {
        assert_eq!(read(6, "mass=0.1", &WEIGHTS, 0), Read::All);
    }

    #[test]
    fn the_old_name_of_an_option_is_refused_with_those_that_there_are() {
        let error = "least=3".parse::<TopPOptions>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected one of mass, min_pages, found `least`"
        );
    }

    #[test]
    fn a_budget_below_the_least_number_of_pages_is_refused() {
        let quest = QuestConfig::new().with_token_budget(32);
        let error = TopPPolicy::new(quest, "min_pages=3".parse().unwrap(), 16).unwrap_err();
        assert_eq!(
            error.to_string(),
            "token budget of top-p: expected at least 48 (the pages that are read at least), found \
             32"
        );
    }
}
