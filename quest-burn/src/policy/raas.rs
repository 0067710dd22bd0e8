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
mod tests {
    use super::*;
    use crate::policy::{
        ObservedPolicy, Read,
        fixture::{Weighted, assert_close, observed},
    };

    fn raas(budget_pages: usize, options: &str) -> ObservedPolicy {
        let quest = QuestConfig::new()
            .with_token_budget(8 * budget_pages)
            .with_sink_pages(0)
            .with_dense_layers(0);
        let options = match options {
            "" => RaasOptions::default(),
            options => options.parse().unwrap(),
        };
        observed(RaasPolicy::new(quest, options, 8).unwrap())
    }

    fn pages(lists: &[&[usize]]) -> Read {
        Read::Pages(lists.iter().map(|list| list.to_vec()).collect())
    }

    /// Decodes `tokens` tokens of one weight; what the last of them reads, and its output.
    fn decode(
        layer: &mut Weighted,
        policy: &ObservedPolicy,
        tokens: usize,
        weight: f32,
        query: f32,
    ) -> (Read, Vec<f32>) {
        let outputs = (0..tokens).map(|_| layer.decode(policy, &[weight], &[query]));
        outputs.last().unwrap()
    }

    #[test]
    fn the_page_that_was_used_longest_ago_leaves() {
        let policy = raas(4, "");
        let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 8]);
        decode(&mut layer, &policy, 8, 4.0, 1.0);
        decode(&mut layer, &policy, 8, 0.5, 1.0);
        let (read, output) = decode(&mut layer, &policy, 8, 2.0, 1.0);
        assert_eq!(read, Read::All);
        assert_close(&output, &[914.0 / 60.0]);
        // Pages 1, 2, 3 were used at 32, 24, 32: page 2 leaves, although page 1 is older.
        let (read, output) = decode(&mut layer, &policy, 1, 4.0, 1.0);
        assert_eq!(read, pages(&[&[0, 1, 3, 4]]));
        assert_close(&output, &[964.0 / 60.0]);
        // The other way round, pages 0 and 3 are the best; page 1 is not used again.
        let (_, output) = decode(&mut layer, &policy, 7, 4.0, -1.0);
        assert_close(&output, &[232.0 / 16.0]);
        let (read, output) = decode(&mut layer, &policy, 1, 1.0, 1.0);
        assert_eq!(read, pages(&[&[0, 3, 4, 5]]));
        assert_close(&output, &[1644.0 / 57.0]);
    }

    #[test]
    fn a_prompt_that_competes_leaves_like_decoded_pages() {
        let policy = raas(4, "prompt=competes");
        let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 8]);
        for (weight, tokens) in [(4.0, 8), (0.5, 8), (2.0, 8)] {
            decode(&mut layer, &policy, tokens, weight, 1.0);
        }
        // Pages 0 and 2 were used last at 24.
        let (read, _) = decode(&mut layer, &policy, 1, 4.0, 1.0);
        assert_eq!(read, pages(&[&[1, 2, 3, 4]]));
    }

    #[test]
    fn the_first_query_ranks_a_prompt_that_competes_and_does_not_fit() {
        let weight = |token: usize| [1.0, 9.0, 1.0, 2.0, 5.0][token / 8];
        let prompt = (0..40).map(|token| [weight(token)]).collect::<Vec<_>>();
        let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
        let policy = raas(3, "prompt=competes");
        let mut layer = Weighted::new(1).prompt(&prompt);
        let (read, _) = decode(&mut layer, &policy, 1, 1.0, 1.0);
        assert_eq!(read, pages(&[&[1, 4, 5]]));
        // Pages do not come back, however much a later query would like them.
        let (read, _) = decode(&mut layer, &policy, 1, 1.0, -1.0);
        assert_eq!(read, pages(&[&[1, 4, 5]]));
    }

    #[test]
    fn a_pinned_prompt_beyond_the_budget_is_read_beside_the_newest_page() {
        let policy = raas(3, "");
        let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 40]);
        let (read, _) = decode(&mut layer, &policy, 8, 1.0, 1.0);
        assert_eq!(read, pages(&[&[0, 1, 2, 3, 4, 5]]));
        let (read, _) = decode(&mut layer, &policy, 1, 1.0, 1.0);
        assert_eq!(read, pages(&[&[0, 1, 2, 3, 4, 6]]));
    }

    #[test]
    fn heads_hold_pages_of_their_own() {
        let policy = raas(2, "prompt=competes");
        let weights = |token: usize| [[8.0, 1.0], [1.0, 8.0]][token / 8];
        let prompt = (0..16).map(weights).collect::<Vec<_>>();
        let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
        let mut layer = Weighted::new(2).prompt(&prompt);
        let (read, _) = layer.decode(&policy, &[1.0, 1.0], &[1.0, 1.0]);
        assert_eq!(read, pages(&[&[0, 2], &[1, 2]]));
    }

    #[test]
    fn of_a_prompt_as_with_quest_each_query_reads_the_best_pages() {
        let weight = |token: usize| [2.0, 8.0, 4.0, 1.0][token / 8];
        let prompt = (0..32).map(|token| [weight(token)]).collect::<Vec<_>>();
        let prompt = prompt.iter().map(|w| &w[..]).collect::<Vec<_>>();
        let policy = raas(4, "prompt=quest");
        let mut layer = Weighted::new(1).prompt(&prompt);
        // One decoded page leaves room for three of the prompt.
        let (read, _) = decode(&mut layer, &policy, 8, 3.0, 1.0);
        assert_eq!(read, pages(&[&[0, 1, 2, 4]]));
        let (read, _) = decode(&mut layer, &policy, 8, 2.0, -1.0);
        assert_eq!(read, pages(&[&[0, 3, 4, 5]]));
        // Both decoded pages are there; page 5 was the better one for the last query.
        let (read, _) = decode(&mut layer, &policy, 1, 3.0, 1.0);
        assert_eq!(read, pages(&[&[1, 2, 5, 6]]));
    }

    /// Decodes tokens whose weights and queries change, and frees what the policy has done with. What was
    /// read, the outputs, and the most pages in use.
    fn long_answer(
        layer: &mut Weighted,
        policy: &RaasPolicy,
        n_kv_heads: usize,
    ) -> (Vec<Read>, Vec<f32>, usize) {
        let (mut reads, mut outputs, mut most) = (Vec::new(), Vec::new(), 0);
        for token in 0..40usize {
            let held = |layer: &LayerCache, sequence| policy.pages_held(layer, sequence);
            layer.cache.free_all_but(held).unwrap();
            let weight = |head: usize| [4.0, 0.5, 2.0, 8.0, 1.0][(token / 8 + 2 * head) % 5];
            let weights = (0..n_kv_heads).map(weight).collect::<Vec<_>>();
            let query = (0..n_kv_heads).map(|head| [1.0, -1.0][(token / 5 + head) % 2]);
            let query = query.collect::<Vec<_>>();
            let (read, output) = layer.decode(&observed(policy.clone()), &weights, &query);
            reads.push(read);
            outputs.extend(output);
            most = most.max(layer.cache.pages_in_use()[0]);
        }
        (reads, outputs, most)
    }

    #[test]
    fn freed_pages_bound_the_memory_of_a_long_answer_and_change_nothing() {
        for (n_kv_heads, prompt) in [(1, "pinned"), (1, "competes"), (1, "quest"), (2, "pinned")] {
            let answer = |free: &str| {
                let quest = QuestConfig::new()
                    .with_token_budget(8 * 3)
                    .with_sink_pages(0)
                    .with_dense_layers(0);
                let options = format!("prompt={prompt},free={free}").parse().unwrap();
                let policy = RaasPolicy::new(quest, options, 8).unwrap();
                let weights = [[1.0f32; 2]; 16];
                let weights = weights.iter().map(|w| &w[..n_kv_heads]).collect::<Vec<_>>();
                let mut layer = Weighted::new(n_kv_heads).prompt(&weights);
                let answer = long_answer(&mut layer, &policy, n_kv_heads);
                (answer, layer)
            };
            let ((kept_reads, kept_outputs, all), _) = answer("false");
            let ((reads, outputs, most), mut layer) = answer("true");
            assert_eq!(reads, kept_reads, "{prompt}");
            assert_eq!(outputs, kept_outputs, "{prompt}: to the bit");
            assert_eq!(all, 7);
            // The newest page is there before another one leaves.
            let bound = 2 + 3 * n_kv_heads;
            assert!(most <= bound.min(6), "{prompt}, {n_kv_heads}: {most} pages");
            // Another pass would read what is not there.
            let error = layer.cache.decode().unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("KV cache: expected decode steps by the policy")
            );
            assert!(layer.cache.prefill(&[1]).is_err());
            assert!(layer.cache.free_all_but(|_, _| None).is_err());
            assert!(layer.cache.truncate(0, 55).is_err());
            layer.cache.release(0).unwrap();
            assert_eq!(layer.cache.free_pages(), 8);
            layer.cache.prefill(&[64]).unwrap();
        }
    }

    #[test]
    fn truncation_makes_a_prompt_of_what_is_left() {
        let policy = raas(2, "");
        let mut layer = Weighted::new(1).prompt(&[&[1.0f32] as &[f32]; 8]);
        let (read, _) = decode(&mut layer, &policy, 17, 1.0, 1.0);
        assert_eq!(read, pages(&[&[0, 3]]));
        layer.cache.truncate(0, 24).unwrap();
        let (read, _) = decode(&mut layer, &policy, 1, 1.0, 1.0);
        assert_eq!(read, pages(&[&[0, 1, 2, 3]]));
    }
}
