use burn::tensor::Tensor;

use super::{
    PagePolicy, PageSelection, PageSharing, Pages, PolicyError, QuestConfig,
    lists::{best, listed},
    options::{named_values, policy_options},
    prompt::PromptPages,
};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

named_values! {
    /// What becomes of the pages of a prompt.
    RandomPrompt {
        /// They stay. A prompt beyond the budget is read whole, beside the newest page.
        Pinned = "pinned",
        /// They are evicted like decoded ones.
        Competes = "competes",
    }
}

policy_options! {
    /// Options of a [`RandomPolicy`].
    RandomOptions {
        prompt: RandomPrompt = RandomPrompt::Pinned, "prompt",
            "What becomes of prompt pages: pinned, or competes";
        seed: u64 = 0, "seed", "Which pages are drawn";
    }
}

/// Evicts pages at random, in each list others: what a comparison of policies has to beat.
///
/// A page is evicted for good. The newest page and first pages that are always read
/// ([`QuestConfig::sink_pages`]) stay, and so does the prompt, unless it competes: most of the
/// difference between evicting policies is said to be whether they keep the prompt
/// ([arXiv 2609.03430](https://arxiv.org/abs/2609.03430)).
///
/// What is drawn depends on the seed, the layer, the list and the page alone, so a sequence reads the
/// same pages in every batch. Lists are made on the host; a step cannot be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomPolicy {
    quest: QuestConfig,
    options: RandomOptions,
}

/// What a sequence has of a prompt, if it is pinned.
#[derive(Clone, Debug)]
struct SeenPrompt {
    policy: RandomPolicy,
    prompt: PromptPages,
}

impl RandomPolicy {
    /// The policy, with the budget, page size, dense layers and sharing of `quest`.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails.
    pub fn new(
        quest: QuestConfig,
        options: RandomOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        quest.validate_for(page_size)?;
        Ok(Self { quest, options })
    }

    fn prompt(&self, cache: &LayerCache, step: &Step, sequence: usize) -> PromptPages {
        let before = cache.states().get::<SeenPrompt>(sequence);
        let before = before.filter(|before| before.policy == *self);
        PromptPages::after(before.map(|before| &before.prompt), step, sequence)
    }

    /// The pages of each list of a sequence.
    fn lists(
        &self,
        n_lists: usize,
        layer: usize,
        prompt: &PromptPages,
        page_size: usize,
    ) -> Vec<Vec<usize>> {
        let PageSelection {
            k: budget_pages,
            sink_pages,
            ..
        } = self.quest.selection(page_size);
        let is_pinned = self.options.prompt == RandomPrompt::Pinned;
        let n_pages = prompt.n_pages();
        let stays = |page: usize| {
            let is_kept = page < sink_pages || page + 1 == n_pages;
            is_kept || (is_pinned && prompt.is_prompt(page))
        };
        let staying = (0..n_pages).filter(|&page| stays(page)).count();
        let k = budget_pages.max(staying);
        let of_list = |list: usize| {
            let worth = (0..n_pages).map(|page| match stays(page) {
                true => f32::INFINITY,
                false => drawn([self.options.seed, layer as u64, list as u64, page as u64]),
            });
            best(&worth.collect::<Vec<_>>(), k)
        };
        (0..n_lists).map(of_list).collect()
    }
}

/// A number from 0 to 1 that depends on `parts` alone (the finaliser of splitmix64).
fn drawn(parts: [u64; 4]) -> f32 {
    let mixed = parts.into_iter().fold(0u64, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    (mixed >> 40) as f32 / (1u64 << 24) as f32
}

impl PagePolicy for RandomPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let covers = step.max_pages() <= self.quest.budget_pages(step.page_size());
        if cache.index() < self.quest.dense_layers || covers {
            return Pages::All;
        }
        let n_lists = match self.quest.sharing {
            PageSharing::QueryHead => query.dims()[1],
            PageSharing::KvHead => cache.dims()[1],
        };
        let of_sequence = |sequence: usize| {
            let prompt = self.prompt(cache, step, sequence);
            self.lists(n_lists, cache.index(), &prompt, step.page_size())
        };
        let lists = (0..step.batch()).map(of_sequence).collect::<Vec<_>>();
        listed(&lists, &query.device())
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        let pages = self.select(&query, cache, step, scale);
        if self.options.prompt == RandomPrompt::Pinned {
            for sequence in (0..step.batch()).filter(|&s| step.new_tokens(s) > 0) {
                let seen = SeenPrompt {
                    policy: self.clone(),
                    prompt: self.prompt(cache, step, sequence),
                };
                cache.states_mut().set(sequence, seen);
            }
        }
        ops::paged_attention(query, cache, &pages, step, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        ObservedPolicy, Read,
        fixture::{Weighted, observed},
    };

    fn random(budget_pages: usize, options: &str) -> ObservedPolicy {
        let quest = QuestConfig::new()
            .with_token_budget(8 * budget_pages)
            .with_sink_pages(0)
            .with_dense_layers(0);
        observed(RandomPolicy::new(quest, options.parse().unwrap(), 8).unwrap())
    }

    /// What a layer with two KV heads reads at each of `tokens` tokens after a prompt; nothing is
    /// listed where all is read.
    fn read(policy: &ObservedPolicy, prompt: usize, tokens: usize) -> Vec<Vec<Vec<usize>>> {
        let mut layer = Weighted::new(2).prompt(&vec![&[1.0f32, 1.0] as &[f32]; prompt]);
        let steps = (0..tokens).map(|_| layer.decode(policy, &[1.0; 2], &[1.0; 2]).0);
        let lists = steps.map(|read| match read {
            Read::All => Vec::new(),
            Read::Pages(lists) => lists,
            other => panic!("lists of pages were expected, found {other:?}"),
        });
        lists.collect()
    }

    #[test]
    fn what_is_drawn_depends_on_seed_and_list_and_is_evicted_for_good() {
        let steps = read(&random(3, "prompt=competes"), 40, 24);
        for (step, lists) in steps.iter().enumerate() {
            let newest = (40 + step) / 8;
            for list in lists {
                assert_eq!((list.len(), list[2]), (3, newest));
            }
            let before = &steps[step.saturating_sub(1)];
            let came_back = |list: usize| {
                let kept = lists[list].iter().filter(|&&page| page != newest);
                kept.filter(|&page| !before[list].contains(page)).count()
            };
            assert_eq!((came_back(0), came_back(1)), (0, 0), "step {step}");
        }
        assert_eq!(read(&random(3, "prompt=competes"), 40, 24), steps);
        assert_ne!(read(&random(3, "prompt=competes,seed=1"), 40, 24), steps);
        assert!(steps.iter().any(|lists| lists[0] != lists[1]));
    }

    #[test]
    fn a_pinned_prompt_stays_whole_even_beyond_the_budget() {
        let steps = read(&random(3, "prompt=pinned"), 16, 40);
        let last = steps.last().unwrap();
        for list in last {
            assert_eq!(list[..2], [0, 1]);
            assert_eq!((list.len(), list[2]), (3, 6));
        }
        let steps = read(&random(2, "prompt=pinned"), 24, 17);
        assert_eq!(steps[0], vec![vec![0, 1, 2, 3]; 2]);
        assert_eq!(steps[16], vec![vec![0, 1, 2, 5]; 2]);
    }

    #[test]
    fn numbers_are_spread_evenly() {
        let mean = (0..1000).map(|n| drawn([0, 0, 0, n])).sum::<f32>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
