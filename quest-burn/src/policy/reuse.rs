use core::num::NonZeroUsize;

use burn::tensor::{DType, Int, Tensor};

use super::{PagePolicy, PageSelection, Pages, PolicyError, QuestConfig, options::policy_options};
#[cfg(feature = "cube")]
use crate::cache::{RecordedLists, ints};
use crate::{
    cache::{LayerCache, Step, zeros},
    ops,
};

policy_options! {
    /// Options of a [`ReusePolicy`].
    ReuseOptions {
        every: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0"), "every",
            "Decoded tokens for which a choice of pages serves";
        layers: NonZeroUsize = NonZeroUsize::MIN, "layers",
            "Adjacent layers that read what the first of them chooses";
    }
}

/// Quest that chooses pages less often: a choice serves several steps, as LServe's do
/// ([arXiv 2502.14866](https://arxiv.org/abs/2502.14866)), and several layers, as TidalDecode's
/// ([arXiv 2410.05076](https://arxiv.org/abs/2410.05076)).
///
/// One page of the budget is for the page that a sequence takes next, so that new tokens are read while a choice
/// serves; where a second page is taken, pages are chosen anew. A budget without room for it chooses anew with each
/// page. With `every=1,layers=1` it is Quest.
///
/// In recorded steps ([`crate::decode`]) the lists stay on the device, and a step that chooses nothing neither
/// scores nor selects. Truncating a sequence forgets its list.
#[derive(Clone, Debug, PartialEq)]
pub struct ReusePolicy {
    quest: QuestConfig,
    options: ReuseOptions,
}

/// What was chosen for a sequence in a layer.
#[derive(Clone, Debug)]
struct KeptList {
    policy: ReusePolicy,
    /// Length of the sequence then.
    made_at: usize,
    /// `[1, lists, k]`
    ids: Tensor<3, Int>,
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

    /// Pages of a list that are kept for those that a sequence takes while it serves.
    fn coming_pages(&self, selection: &PageSelection) -> usize {
        let always = selection.sink_pages + selection.recent_pages;
        let has_room = selection.k > always.max(1);
        usize::from(self.options.every.get() > 1 && has_room)
    }

    /// The list of a sequence that still serves.
    fn kept<'a>(
        &self,
        cache: &'a LayerCache,
        step: &Step,
        sequence: usize,
    ) -> Option<&'a KeptList> {
        let kept = cache.states().get::<KeptList>(sequence)?;
        let length = step.lengths()[sequence];
        let serves = self.choice_serves(kept.made_at, length, step.page_size());
        (kept.policy == *self && serves).then_some(kept)
    }

    /// The list of each sequence in a step that is not recorded.
    fn lists(
        &self,
        query: &Tensor<3>,
        cache: &LayerCache,
        step: &Step,
        selection: &PageSelection,
    ) -> Vec<KeptList> {
        let kept = (0..step.batch()).map(|sequence| self.kept(cache, step, sequence));
        let kept = kept.collect::<Vec<_>>();
        let is_due = |sequence: usize| kept[sequence].is_none() && step.new_tokens(sequence) > 0;
        let n_lists = self.quest.scoring().lists(query.dims()[1], cache.dims()[1]);
        let made = match (0..step.batch()).any(is_due) {
            true => {
                let scores = ops::page_scores(query.clone(), cache, step, self.quest.scoring());
                ops::top_pages_ahead(scores, step, selection, self.coming_pages(selection))
            }
            // A sequence without a new token reads nothing.
            false => {
                let shape = [step.batch(), n_lists, selection.k];
                zeros(shape, &query.device(), DType::I32)
            }
        };
        let of_sequence = |(sequence, kept): (usize, Option<&KeptList>)| {
            kept.cloned().unwrap_or_else(|| KeptList {
                policy: self.clone(),
                made_at: step.lengths()[sequence],
                ids: made.clone().slice([sequence..sequence + 1]),
            })
        };
        kept.into_iter().enumerate().map(of_sequence).collect()
    }

    /// The pages that lists name and sequences have.
    fn listed(&self, lists: &[KeptList], selection: &PageSelection, step: &Step) -> Pages {
        let k = selection.k;
        let count = |(sequence, list): (usize, &KeptList)| {
            let n_pages = step.pages(sequence).len();
            let taken = n_pages - list.made_at.div_ceil(step.page_size()).min(n_pages);
            match n_pages <= k {
                true => n_pages,
                false => k - self.coming_pages(selection) + taken,
            }
        };
        let ids = lists.iter().map(|list| list.ids.clone());
        Pages::Listed {
            ids: Tensor::cat(ids.collect(), 0),
            counts: lists.iter().enumerate().map(count).collect(),
        }
    }

    /// The lists of a recorded step, which are on the device.
    #[cfg(feature = "cube")]
    fn recorded(
        &self,
        lists: &RecordedLists,
        query: &Tensor<3>,
        cache: &LayerCache,
        step: &Step,
        selection: &PageSelection,
    ) -> Pages {
        let (batch, layer) = (step.batch(), cache.index());
        let ids = lists.renewed(layer, |due, kept| {
            let scoring = self.quest.scoring();
            // Where there are no lists everything was read until now, and every sequence has all of its pages in these.
            let ids = kept.unwrap_or_else(|| {
                let n_lists = scoring.lists(query.dims()[1], cache.dims()[1]);
                let all = (0..selection.k as i32).collect::<Vec<_>>();
                let all = all.repeat(batch * n_lists);
                ints(all, [batch, n_lists, selection.k], &query.device())
            });
            let scores = ops::page_scores(query.clone(), cache, step, scoring);
            let selection = (selection, self.coming_pages(selection));
            ops::renew_top_pages(scores, step, selection, due, ids)
        });
        Pages::Listed {
            ids,
            counts: selection.counts(step),
        }
    }

    /// What is read, and the lists that say so, unless all is read or they are kept elsewhere.
    fn chosen(
        &self,
        query: &Tensor<3>,
        cache: &LayerCache,
        step: &Step,
    ) -> (Pages, Option<Vec<KeptList>>) {
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
        let (pages, lists) = self.choose(query, cache, step, &selection);
        if self.options.layers.get() > 1 {
            let chosen = ChosenPages {
                policy: self.clone(),
                pages: pages.clone(),
            };
            step.note(cache.index(), chosen);
        }
        (pages, lists)
    }

    fn choose(
        &self,
        query: &Tensor<3>,
        cache: &LayerCache,
        step: &Step,
        selection: &PageSelection,
    ) -> (Pages, Option<Vec<KeptList>>) {
        if self.options.every.get() == 1 {
            let scores = ops::page_scores(query.clone(), cache, step, self.quest.scoring());
            return (ops::top_pages(scores, step, selection), None);
        }
        #[cfg(feature = "cube")]
        if let Some(recorded) = step.recorded_lists() {
            return (self.recorded(recorded, query, cache, step, selection), None);
        }
        let lists = self.lists(query, cache, step, selection);
        (self.listed(&lists, selection, step), Some(lists))
    }
}

impl PagePolicy for ReusePolicy {
    fn tokens_read(&self, layer: usize, length: usize, page_size: usize) -> Option<usize> {
        Some(self.quest.tokens_read(layer, length, page_size))
    }

    fn is_capturable(&self) -> bool {
        true
    }

    fn steps_per_choice(&self) -> usize {
        self.options.every.get()
    }

    fn choice_serves(&self, made_at: usize, length: usize, page_size: usize) -> bool {
        let selection = self.quest.selection(page_size);
        let [then, now] = [made_at, length].map(|tokens| tokens.div_ceil(page_size));
        let is_recent = made_at <= length && length - made_at < self.options.every.get();
        let is_listed = now <= then + self.coming_pages(&selection);
        // What was read whole has a choice to make.
        let is_outgrown = then <= selection.k && now > selection.k;
        is_recent && is_listed && !is_outgrown
    }

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
        let (pages, lists) = self.chosen(&query, cache, step);
        for (sequence, list) in lists.into_iter().flatten().enumerate() {
            if step.new_tokens(sequence) > 0 {
                cache.states_mut().set(sequence, list);
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
    fn a_choice_serves_several_steps() {
        let policy = reuse(3, "every=3");
        let mut layer = prompt();
        // The first query likes page 0 best, the later ones page 1. A page of the budget is still to come.
        let mut read = |query: f32| pages(layer.decode(&policy, &[1.0], &[query]).0);
        let reads = [1.0, -1.0, -1.0, -1.0, 1.0].map(&mut read);
        assert_eq!(reads[..3], [[0, 4]; 3]);
        assert_eq!(reads[3..], [[1, 4]; 2]);
    }

    #[test]
    fn a_page_that_is_taken_is_read_and_with_the_second_pages_are_chosen_anew() {
        let policy = reuse(3, "every=100");
        let mut layer = prompt();
        let mut read = |query: f32| pages(layer.decode(&policy, &[1.0], &[query]).0);
        let reads = (0..25).map(|step| read(if step < 16 { 1.0 } else { -1.0 }));
        let reads = reads.collect::<Vec<_>>();
        assert_eq!(reads[..8], [[0, 4]; 8]);
        assert_eq!(reads[8..16], [[0, 4, 5]; 8]);
        assert_eq!(reads[16..24], [[1, 6]; 8]);
        assert_eq!(reads[24], [1, 6, 7]);
    }

    #[test]
    fn a_budget_without_room_for_a_page_to_come_chooses_with_each_page() {
        let policy = reuse(1, "every=100");
        let mut layer = prompt();
        let reads = (0..17).map(|_| pages(layer.decode(&policy, &[1.0], &[1.0]).0));
        let reads = reads.collect::<Vec<_>>();
        assert_eq!(reads[..8], [[4]; 8]);
        assert_eq!(reads[8..16], [[5]; 8]);
        assert_eq!(reads[16], [6]);
    }

    #[test]
    fn a_sequence_that_outgrows_the_budget_chooses() {
        let policy = ReusePolicy::new(quest(3), "every=9".parse().unwrap(), 8).unwrap();
        let serves = |made_at, length| policy.choice_serves(made_at, length, 8);
        assert!(serves(10, 10) && serves(10, 18), "read whole");
        assert!(!serves(10, 19), "for 9 tokens");
        assert!(!serves(20, 19), "taken back");
        assert!(
            serves(17, 24) && !serves(17, 25),
            "a page more than the budget holds"
        );
        assert!(serves(31, 39));
        assert!(serves(32, 40), "one page is to come");
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
    fn with_a_choice_for_every_step_and_layer_it_is_quest() {
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
    fn truncation_forgets_a_choice() {
        let policy = reuse(3, "every=100");
        let mut layer = prompt();
        layer.decode(&policy, &[1.0], &[1.0]);
        layer.cache.truncate(0, 32).unwrap();
        let (read, _) = layer.decode(&policy, &[1.0], &[-1.0]);
        assert_eq!(pages(read), [1, 4]);
    }
}
