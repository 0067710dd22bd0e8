use core::num::NonZeroUsize;

use burn::tensor::Tensor;

use super::{
    PagePolicy, PageSelection, PageSharing, Pages, PolicyError, QuestConfig,
    lists::{best, listed, scores_on_host},
    options::policy_options,
};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

policy_options! {
    /// Options of a [`ReusePolicy`].
    ReuseOptions {
        every: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0"), "every",
            "Decoded tokens for which the same scores choose";
        layers: NonZeroUsize = NonZeroUsize::MIN, "layers",
            "Adjacent layers that read what the first of them chooses";
    }
}

/// Quest that scores pages less often: scores serve several steps, as LServe's do
/// ([arXiv 2502.14866](https://arxiv.org/abs/2502.14866)), and several layers, as TidalDecode's
/// ([arXiv 2410.05076](https://arxiv.org/abs/2410.05076)).
///
/// Pages that were opened since are read, in place of those with the lowest scores. With
/// `every=1,layers=1` it is Quest.
///
/// Scores are kept on the host, so a step that makes them waits for the device and none can be
/// recorded. Truncating a sequence forgets them.
#[derive(Clone, Debug, PartialEq)]
pub struct ReusePolicy {
    quest: QuestConfig,
    options: ReuseOptions,
}

/// Scores that a sequence was given in a layer.
#[derive(Clone, Debug)]
struct KeptScores {
    policy: ReusePolicy,
    /// Length of the sequence then.
    made_at: usize,
    /// `[list][page]`
    scores: Vec<Vec<f32>>,
}

/// What a layer reads in a step.
#[derive(Clone, Debug)]
struct ChosenPages {
    policy: ReusePolicy,
    pages: Pages,
}

impl ReusePolicy {
    /// The policy, with the settings of `quest`.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails.
    pub fn new(
        quest: QuestConfig,
        options: ReuseOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        quest.validate_for(page_size)?;
        Ok(Self { quest, options })
    }

    /// The layer that chooses for this one.
    fn leader(&self, layer: usize) -> usize {
        layer - (layer - self.quest.dense_layers) % self.options.layers
    }

    /// The scores of a sequence that still serve.
    fn kept<'a>(
        &self,
        cache: &'a LayerCache,
        step: &Step,
        sequence: usize,
    ) -> Option<&'a KeptScores> {
        let length = step.lengths()[sequence];
        let kept = cache.states().get::<KeptScores>(sequence)?;
        let serves = kept.made_at <= length && length - kept.made_at < self.options.every.get();
        (kept.policy == *self && serves).then_some(kept)
    }

    /// The scores by which each sequence chooses.
    fn scores(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step) -> Vec<KeptScores> {
        let kept = (0..step.batch()).map(|sequence| self.kept(cache, step, sequence));
        let kept = kept.collect::<Vec<_>>();
        let is_due = |sequence: usize| kept[sequence].is_none() && step.new_tokens(sequence) > 0;
        let made = (0..step.batch()).any(is_due).then(|| {
            let scores = ops::page_scores(query.clone(), cache, step, self.quest.scoring());
            scores_on_host(scores, step)
        });
        let lists = match self.quest.sharing {
            PageSharing::QueryHead => query.dims()[1],
            PageSharing::KvHead => cache.dims()[1],
        };
        let of_sequence = |(sequence, kept): (usize, Option<&KeptScores>)| {
            kept.cloned().unwrap_or_else(|| KeptScores {
                policy: self.clone(),
                made_at: step.lengths()[sequence],
                // A sequence without a new token reads nothing.
                scores: (made.as_ref()).map_or_else(
                    || vec![vec![0.0; step.pages(sequence).len()]; lists],
                    |made| made[sequence].clone(),
                ),
            })
        };
        kept.into_iter().enumerate().map(of_sequence).collect()
    }

    fn choose(
        &self,
        scores: &[KeptScores],
        selection: &PageSelection,
        query: &Tensor<3>,
        step: &Step,
    ) -> Pages {
        let of_sequence = |(sequence, kept): (usize, &KeptScores)| {
            let n = step.pages(sequence).len();
            let of_list = |scores: &Vec<f32>| {
                let worth = (0..n).map(|page| match scores.get(page) {
                    Some(&score) if !selection.always_keeps(page, n) => score,
                    // Of more new pages than there is room for, the newest.
                    _ if page >= scores.len() && page + 1 < n => f32::MAX,
                    _ => f32::INFINITY,
                });
                best(&worth.collect::<Vec<_>>(), selection.k)
            };
            kept.scores.iter().map(of_list).collect()
        };
        let lists = scores.iter().enumerate().map(of_sequence);
        listed(&lists.collect::<Vec<_>>(), &query.device())
    }

    /// What is read, and the scores that chose it, unless all is read or an earlier layer chose.
    fn chosen(
        &self,
        query: &Tensor<3>,
        cache: &LayerCache,
        step: &Step,
    ) -> (Pages, Option<Vec<KeptScores>>) {
        let Some(selection) = self.quest.layer_selection(cache, step) else {
            return (Pages::All, None);
        };
        let leader = self.leader(cache.index());
        if leader < cache.index()
            && let Some(chosen) = step.noted::<ChosenPages>(leader)
            && chosen.policy == *self
        {
            return (chosen.pages, None);
        }
        let scores = self.scores(query, cache, step);
        let pages = self.choose(&scores, &selection, query, step);
        if self.options.layers.get() > 1 {
            let chosen = ChosenPages {
                policy: self.clone(),
                pages: pages.clone(),
            };
            step.note(cache.index(), chosen);
        }
        (pages, Some(scores))
    }
}

impl PagePolicy for ReusePolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        self.chosen(query, cache, step).0
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        let (pages, scores) = self.chosen(&query, cache, step);
        for (sequence, scores) in scores.into_iter().flatten().enumerate() {
            // A sequence that is read whole has no use for scores, alone or in a batch.
            let is_chosen = step.pages(sequence).len() > self.quest.budget_pages(step.page_size());
            if is_chosen && step.new_tokens(sequence) > 0 {
                cache.states_mut().set(sequence, scores);
            }
        }
        ops::paged_attention(query, cache, &pages, step, scale)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{
        cache::PagedKvCacheConfig,
        policy::{
            ObservedPolicy, Read,
            fixture::{Weighted, observed},
        },
    };

    fn quest(budget_pages: usize) -> QuestConfig {
        QuestConfig::new()
            .with_token_budget(8 * budget_pages)
            .with_sink_pages(0)
            .with_dense_layers(0)
    }

    fn reuse(budget_pages: usize, options: &str) -> ObservedPolicy {
        observed(ReusePolicy::new(quest(budget_pages), options.parse().unwrap(), 8).unwrap())
    }

    fn prompt() -> Weighted {
        let weight = |token: usize| [4.0, 1.0, 3.0, 2.0][token / 8];
        let prompt = (0..32).map(|token| [weight(token)]).collect::<Vec<_>>();
        let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
        Weighted::new(1).prompt(&prompt)
    }

    fn pages(read: Read) -> Vec<usize> {
        match read {
            Read::Pages(lists) => lists[0].clone(),
            other => panic!("a list of pages was expected, found {other:?}"),
        }
    }

    #[test]
    fn scores_choose_for_several_steps() {
        let policy = reuse(3, "every=3");
        let mut layer = prompt();
        // The first query likes pages 0 and 2, the later ones 1 and 3.
        let mut read = |query: f32| pages(layer.decode(&policy, &[1.0], &[query]).0);
        let reads = [1.0, -1.0, -1.0, -1.0, 1.0].map(&mut read);
        assert_eq!(reads[..3], [[0, 2, 4]; 3]);
        assert_eq!(reads[3..], [[1, 3, 4]; 2]);
    }

    #[test]
    fn pages_that_were_opened_since_are_read_instead_of_the_worst() {
        let policy = reuse(3, "every=100");
        let mut layer = prompt();
        let mut read = || pages(layer.decode(&policy, &[1.0], &[1.0]).0);
        let reads = (0..25).map(|_| read()).collect::<Vec<_>>();
        assert_eq!(reads[7], [0, 2, 4]);
        // Page 4 held one token of weight 1 when it was scored.
        assert_eq!(reads[8], [0, 2, 5]);
        assert_eq!(reads[16], [0, 5, 6]);
        assert_eq!(reads[24], [5, 6, 7]);
    }

    #[test]
    fn of_more_new_pages_than_there_is_room_for_the_newest_page_is_read() {
        let policy = reuse(1, "every=100");
        let mut layer = prompt();
        let reads = (0..17).map(|_| pages(layer.decode(&policy, &[1.0], &[1.0]).0));
        assert_eq!(reads.last().unwrap(), [6]);
    }

    #[test]
    fn adjacent_layers_read_what_the_first_of_them_chooses() {
        let config = PagedKvCacheConfig::for_tokens(5, 1, 1, 8, 1, 64);
        let mut cache = config.init(&Device::default(), DType::F32).unwrap();
        let quest = quest(1).with_newest_page(crate::NewestPage::Competes);
        let quest = quest.with_dense_layers(1);
        let policy = ReusePolicy::new(quest, "layers=2".parse().unwrap(), 8);
        let policy = observed(policy.unwrap());
        let step = cache.prefill(&[23]).unwrap();
        let rows = |n: usize, layer: usize| {
            // In layer l, page l % 3 has the largest keys.
            let key = |token: usize| f32::from(u8::from(token / 8 == layer % 3));
            let keys = (24 - n..24).map(key).collect::<Vec<_>>();
            let keys = burn::tensor::TensorData::new(keys, [1, 1, n, 1]);
            Tensor::<4>::from_data(keys, &Device::default())
        };
        for layer in 0..5 {
            let rows = rows(24, layer).slice_dim(2, 0..23);
            ops::append(cache.layer_mut(layer), rows.clone(), rows, &step);
        }
        let step = cache.decode().unwrap();
        for layer in 0..5 {
            ops::append(
                cache.layer_mut(layer),
                rows(1, layer),
                rows(1, layer),
                &step,
            );
        }
        for layer in 0..5 {
            let query = Tensor::<3>::ones([1, 1, 1], &Device::default());
            policy.attention(query, cache.layer_mut(layer), &step, 1.0);
        }
        let reads = policy.observations().take().into_iter().map(|o| o.read);
        let one = |page: usize| Read::Pages(vec![vec![page]]);
        // Layers 1 and 3 choose, 2 and 4 follow.
        let expected = [Read::All, one(1), one(1), one(0), one(0)];
        assert_eq!(reads.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn with_new_scores_for_every_step_and_layer_it_is_quest() {
        let policies = [reuse(3, "every=1"), observed(quest(3).init().unwrap())];
        let [reuse, quest] = policies.map(|policy| {
            let mut layer = prompt();
            let queries = (0..20).map(|step| [1.0, -0.5, -1.0][step % 3]);
            let steps = queries.map(|query| layer.observe(&policy, &[2.5], &[query]));
            steps.collect::<Vec<_>>()
        });
        assert_eq!(reuse, quest);
    }

    #[test]
    fn truncation_forgets_scores() {
        let policy = reuse(3, "every=100");
        let mut layer = prompt();
        layer.decode(&policy, &[1.0], &[1.0]);
        layer.cache.truncate(0, 32).unwrap();
        let (read, _) = layer.decode(&policy, &[1.0], &[-1.0]);
        assert_eq!(pages(read), [1, 3, 4]);
    }
}
