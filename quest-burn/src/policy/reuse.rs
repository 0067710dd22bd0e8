use core::num::NonZeroUsize;

use burn::tensor::{Int, Tensor};

use super::{PagePolicy, PageSelection, Pages, PolicyError, QuestConfig, options::policy_options};
#[cfg(feature = "cube")]
use crate::cache::{RecordedLists, ints};
use crate::{
    cache::{LayerCache, Step},
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
        let made = (0..step.batch()).any(is_due).then(|| {
            let scores = ops::page_scores(query.clone(), cache, step, self.quest.scoring());
            ops::top_pages_ahead(scores, step, selection, self.coming_pages(selection))
        });
        let of_anyone = kept.iter().flatten().next();
        let ids = |sequence: usize| match (&made, &of_anyone) {
            (Some(made), _) if step.batch() == 1 => made.clone(),
            (Some(made), _) => made.clone().slice([sequence..sequence + 1]),
            // A sequence without a new token reads nothing, but its list has to name pages.
            (None, Some(kept)) => kept.ids.zeros_like(),
            (None, None) => {
                let n_lists = self.quest.scoring().lists(query.dims()[1], cache.dims()[1]);
                Tensor::zeros([1, n_lists, selection.k], &query.device())
            }
        };
        let of_sequence = |(sequence, kept): (usize, &Option<&KeptList>)| {
            kept.cloned().unwrap_or_else(|| KeptList {
                policy: self.clone(),
                made_at: step.lengths()[sequence],
                ids: ids(sequence),
            })
        };
        kept.iter().enumerate().map(of_sequence).collect()
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
        let ids = match lists {
            [list] => list.ids.clone(),
            lists => Tensor::cat(lists.iter().map(|list| list.ids.clone()).collect(), 0),
        };
        Pages::Listed {
            ids,
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
mod tests;
