use burn::tensor::Tensor;

use super::{
    PagePolicy, Pages, PolicyError, QuestConfig, Share,
    lists::{best, listed, ranked, scores_on_host},
    options::{named_values, policy_options},
    prompt::PromptPages,
};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

named_values! {
    /// What becomes of the pages of a prompt.
    RaasPrompt {
        /// They stay, as in the paper. A prompt beyond the budget is read whole, beside the newest
        /// page.
        Pinned = "pinned",
        /// They are evicted like decoded ones, as in the released code. The first decoded query
        /// ranks a prompt that does not fit.
        Competes = "competes",
        /// They stay, and each query reads those with the highest scores, as the authors advise for
        /// long prompts.
        Quest = "quest",
    }
}

policy_options! {
    /// Options of a [`RaasPolicy`].
    RaasOptions {
        prompt: RaasPrompt = RaasPrompt::Pinned, "prompt",
            "What becomes of prompt pages: pinned, competes, or quest (the best of each query)";
        used: Share = Share::of_millionths(500_000), "used",
            "Share of the budget whose best pages count as used by a query";
        prompt_share: Share = Share::of_millionths(500_000), "prompt-share",
            "Share of the budget that is kept for prompt pages, with prompt=quest";
        free: bool = false, "free",
            "Whether pages that no layer and no head keeps go back to the pool while an answer lasts";
    }
}

/// Evicts the pages that no query has used for the longest time
/// ([RaaS](https://arxiv.org/abs/2502.11147)).
///
/// Every page carries the time when it was last among those with the best scores; while more pages
/// are held than the budget has room for, the one that was used longest ago leaves for good. Prompt
/// pages stay ([`RaasPrompt`]). Scores are those of the cache's digests, for the heads that share a
/// list together. First pages that are always read ([`QuestConfig::sink_pages`]) and the newest page
/// are never evicted.
///
/// Times are kept on the host, so a step waits for the scores and cannot be recorded. Truncating a
/// sequence makes a prompt of what it still holds.
///
/// With [`RaasOptions::free`], pages that have left all lists of all layers go back to the pool, which bounds
/// the memory of a long answer: layers share a page table, so a page stays as long as one head of one layer
/// keeps it. With one list, no more pages are in use than the prompt and the budget hold; with `n` lists of
/// all layers, `n` times the budget, and less where they agree. What was freed cannot be read densely: a
/// sequence with gaps takes no prompt and no other policy, and is truncated to what is before them.
#[derive(Clone, Debug, PartialEq)]
pub struct RaasPolicy {
    quest: QuestConfig,
    options: RaasOptions,
}

/// A page that a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldPage {
    page: usize,
    /// Length of the sequence when it was used last.
    stamp: usize,
}

/// What a sequence holds in a layer. With [`RaasPrompt::Quest`], prompt pages are in no list.
#[derive(Clone, Debug)]
struct HeldPages {
    policy: RaasPolicy,
    prompt: PromptPages,
    lists: Vec<Vec<HeldPage>>,
}

impl RaasPolicy {
    /// The policy, with the budget, page size, dense layers and sharing of `quest`.
    ///
    /// # Errors
    ///
    /// When [`QuestConfig::validate_for`] fails.
    pub fn new(
        quest: QuestConfig,
        options: RaasOptions,
        page_size: usize,
    ) -> Result<Self, PolicyError> {
        quest.validate_for(page_size)?;
        Ok(Self { quest, options })
    }

    fn is_dense(&self, cache: &LayerCache) -> bool {
        cache.index() < self.quest.dense_layers
    }

    fn scores(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step) -> Vec<Vec<Vec<f32>>> {
        let scores = ops::page_scores(query.clone(), cache, step, self.quest.scoring());
        scores_on_host(scores, step)
    }

    /// Pages that the lists of a sequence have room for.
    fn room(&self, prompt: &PromptPages, page_size: usize) -> usize {
        let budget = self.quest.budget_pages(page_size);
        match self.options.prompt {
            RaasPrompt::Quest => {
                let of_prompt = self.options.prompt_share.floor(budget);
                (budget - of_prompt.min(prompt.count())).max(1)
            }
            RaasPrompt::Pinned | RaasPrompt::Competes => budget,
        }
    }

    /// Whether a page stays whenever it was used.
    fn stays(&self, page: usize, prompt: &PromptPages, page_size: usize) -> bool {
        let is_pinned = self.options.prompt == RaasPrompt::Pinned && prompt.is_prompt(page);
        let sink_pages = self.quest.selection(page_size).sink_pages;
        is_pinned || page < sink_pages || page + 1 == prompt.n_pages()
    }

    /// What each list of a sequence holds when its newest token has come, given its scores.
    fn held(
        &self,
        scores: &[Vec<f32>],
        cache: &LayerCache,
        step: &Step,
        sequence: usize,
    ) -> HeldPages {
        let before = cache.states().get::<HeldPages>(sequence);
        let before = before.filter(|before| before.policy == *self);
        let prompt = PromptPages::after(before.map(|before| &before.prompt), step, sequence);
        let page_size = step.page_size();
        let (room, now) = (self.room(&prompt, page_size), step.lengths()[sequence]);
        let is_listed =
            |page: usize| self.options.prompt != RaasPrompt::Quest || !prompt.is_prompt(page);
        let of_list = |(list, scores): (usize, &Vec<f32>)| {
            let known = before.map_or(0, |before| before.prompt.n_pages());
            let mut held = before.map_or_else(Vec::new, |before| before.lists[list].clone());
            held.retain(|held| is_listed(held.page));
            let new = (known..prompt.n_pages()).filter(|&page| is_listed(page));
            held.extend(new.map(|page| HeldPage { page, stamp: now }));
            if before.is_none() && held.len() > room {
                // None has been used yet: the first query ranks them.
                let worth =
                    held.iter()
                        .map(|held| match self.stays(held.page, &prompt, page_size) {
                            true => f32::INFINITY,
                            false => scores[held.page],
                        });
                let worth = worth.collect::<Vec<_>>();
                let staying = worth.iter().filter(|w| w.is_infinite()).count();
                let places = best(&worth, room.max(staying));
                return places.into_iter().map(|place| held[place]).collect();
            }
            while held.len() > room {
                let places = 0..held.len();
                let evictable =
                    places.filter(|&place| !self.stays(held[place].page, &prompt, page_size));
                // The first of those that were used at the same time is the oldest.
                let Some(place) = evictable.min_by_key(|&place| held[place].stamp) else {
                    break;
                };
                held.remove(place);
            }
            held
        };
        let lists = scores.iter().enumerate().map(of_list).collect();
        HeldPages {
            policy: self.clone(),
            prompt,
            lists,
        }
    }

    /// The pages that a list reads.
    fn read(
        &self,
        held: &[HeldPage],
        scores: &[f32],
        prompt: &PromptPages,
        page_size: usize,
    ) -> Vec<usize> {
        let mut pages = held.iter().map(|held| held.page).collect::<Vec<_>>();
        if self.options.prompt == RaasPrompt::Quest {
            let of_prompt = (0..prompt.n_pages()).filter(|&page| prompt.is_prompt(page));
            let of_prompt = of_prompt.collect::<Vec<_>>();
            let worth = of_prompt
                .iter()
                .map(|&page| match self.stays(page, prompt, page_size) {
                    true => f32::INFINITY,
                    false => scores[page],
                });
            let room = self
                .quest
                .budget_pages(page_size)
                .saturating_sub(pages.len());
            let chosen = best(&worth.collect::<Vec<_>>(), room);
            pages.extend(chosen.into_iter().map(|place| of_prompt[place]));
            pages.sort_unstable();
        }
        pages
    }

    fn pages(
        &self,
        held: &[HeldPages],
        scores: &[Vec<Vec<f32>>],
        query: &Tensor<3>,
        step: &Step,
    ) -> Pages {
        if step.max_pages() <= self.quest.budget_pages(step.page_size()) {
            return Pages::All;
        }
        let of_sequence = |(held, scores): (&HeldPages, &Vec<Vec<f32>>)| {
            let lists = held.lists.iter().zip(scores);
            lists
                .map(|(list, scores)| self.read(list, scores, &held.prompt, step.page_size()))
                .collect()
        };
        let lists = held.iter().zip(scores).map(of_sequence);
        listed(&lists.collect::<Vec<_>>(), &query.device())
    }

    fn held_of_all(
        &self,
        scores: &[Vec<Vec<f32>>],
        cache: &LayerCache,
        step: &Step,
    ) -> Vec<HeldPages> {
        let sequences = scores.iter().enumerate();
        sequences
            .map(|(sequence, scores)| self.held(scores, cache, step, sequence))
            .collect()
    }

    /// Takes note of the pages that a query has used.
    fn stamp(&self, held: &mut HeldPages, scores: &[Vec<f32>], step: &Step, sequence: usize) {
        let room = self.room(&held.prompt, step.page_size());
        let (used, now) = (
            self.options.used.floor(room).max(1),
            step.lengths()[sequence],
        );
        let newest = held.prompt.n_pages().saturating_sub(1);
        for (list, scores) in held.lists.iter_mut().zip(scores) {
            let worth = list.iter().map(|held| scores[held.page]);
            let ranked = ranked(&worth.collect::<Vec<_>>());
            ranked
                .into_iter()
                .take(used)
                .for_each(|p| list[p].stamp = now);
            let newest = list.iter_mut().filter(|held| held.page == newest);
            newest.for_each(|held| held.stamp = now);
        }
    }
}

impl PagePolicy for RaasPolicy {
    fn frees_pages(&self) -> bool {
        self.options.free && self.quest.dense_layers == 0
    }

    fn pages_held(&self, cache: &LayerCache, sequence: usize) -> Option<Vec<usize>> {
        if !self.options.free || self.is_dense(cache) {
            return None;
        }
        let held = cache.states().get::<HeldPages>(sequence)?;
        if held.policy != *self {
            return None;
        }
        let listed = held.lists.iter().flatten().map(|held| held.page);
        let prompt = 0..held.prompt.n_pages();
        let prompt = prompt.filter(|&page| {
            self.options.prompt == RaasPrompt::Quest && held.prompt.is_prompt(page)
        });
        Some(listed.chain(prompt).collect())
    }

    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        if self.is_dense(cache) {
            return Pages::All;
        }
        let scores = self.scores(query, cache, step);
        let held = self.held_of_all(&scores, cache, step);
        self.pages(&held, &scores, query, step)
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        if self.is_dense(cache) {
            return ops::paged_attention(query, cache, &Pages::All, step, scale);
        }
        let scores = self.scores(&query, cache, step);
        let held = self.held_of_all(&scores, cache, step);
        let pages = self.pages(&held, &scores, &query, step);
        for (sequence, mut held) in held.into_iter().enumerate() {
            if step.new_tokens(sequence) > 0 {
                self.stamp(&mut held, &scores[sequence], step, sequence);
                cache.states_mut().set(sequence, held);
            }
        }
        ops::paged_attention(query, cache, &pages, step, scale)
    }
}

#[cfg(test)]
mod tests;
