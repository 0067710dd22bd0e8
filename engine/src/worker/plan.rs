//! What a step computes: who is taken on, who gets how many tokens, and who gives pages up for it.

use super::{
    Outcome, Worker, WorkerError,
    share::{chunk, shares_of},
};
use crate::{EngineConfig, sequence::Due};

/// Tokens of a sequence in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// The sequence, by its place among those that run.
    pub index: usize,
    pub due: Due,
    pub tokens: usize,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub work: Vec<Work>,
    /// Sequences that ended before they got anything.
    pub outcomes: Vec<(usize, Outcome)>,
}

impl Worker {
    /// Takes sequences on, the oldest first, as long as there are pages for all that is known of them.
    pub(super) fn admit(&mut self) {
        while let Some(next) = self.waiting.front_mut() {
            if self.running.len() == self.config.max_sequences {
                return;
            }
            let page_size = self.cache.page_size();
            let coming = self.running.iter().map(|sequence| {
                // A page to go on with, as well.
                (sequence.ids.len() + page_size).div_ceil(page_size) - sequence.pages.len()
            });
            let coming = coming.sum::<usize>();
            // The prompt is looked up only where that may help, and not again before something has changed.
            if !self.running.is_empty()
                && (coming > self.store.available()
                    || coming + next.needed(&self.store) > self.store.available())
            {
                return;
            }
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Shares the tokens of a step out: one to each sequence that decodes, the rest to prompts.
    pub(super) fn plan(&mut self) -> Result<Plan, WorkerError> {
        let mut most = self.shares()?;
        let mut plan = Plan::default();
        let mut index = 0;
        // The oldest first: sequences behind the one that is looked at may be taken out.
        while index < self.running.len() {
            let due = self.running[index].due();
            let tokens = match due {
                Due::Decode => 1,
                Due::Prompt(prompt) => chunk(prompt, std::mem::take(&mut most[index])),
            };
            if tokens > 0 {
                match self.make_room(index, tokens) {
                    Room::Made => {
                        self.count_in(index);
                        plan.work.push(Work { index, due, tokens });
                    }
                    Room::GivenUp => return Ok(plan),
                    Room::TooSmall => {
                        let error = "KV cache: expected room for one sequence, found too few pages";
                        plan.outcomes.push((index, Err(error.to_owned())));
                    }
                }
            }
            index += 1;
        }
        Ok(plan)
    }

    /// Tokens of its prompt that each sequence may be given, after it began with what is there of it.
    fn shares(&mut self) -> Result<Vec<usize>, WorkerError> {
        let decoding = self.running.iter().filter(|s| s.due() == Due::Decode);
        let left = self.config.step_tokens.saturating_sub(decoding.count());
        let left = left.max(EngineConfig::MIN_PROMPT_TOKENS);
        let mut places = Vec::new();
        for index in 0..self.running.len() {
            if self.running[index].due() != Due::Decode && !self.waits_for_older(index) {
                self.begin(index)?;
                places.push(index);
            }
        }
        let prompts = places.iter().map(|&index| match self.running[index].due() {
            Due::Prompt(left) => left,
            Due::Decode => 0,
        });
        let mut most = vec![0; self.running.len()];
        for (share, place) in shares_of(&prompts.collect::<Vec<_>>(), left)
            .into_iter()
            .zip(places)
        {
            most[place] = share;
        }
        Ok(most)
    }

    /// Whether an older sequence is computing pages that this one begins with and that are not there yet.
    fn waits_for_older(&self, index: usize) -> bool {
        let sequence = &self.running[index];
        if !self.config.prefix_cache || !sequence.pages.is_empty() {
            return false;
        }
        let page_size = self.cache.page_size();
        let known = self.store.known(&sequence.ids, sequence.origin);
        self.running[..index].iter().any(|older| {
            let Due::Prompt(left) = older.due() else {
                return false;
            };
            let computes = &older.ids[..older.computed + left];
            let both = sequence.ids.iter().zip(computes);
            let common = both.take_while(|(a, b)| a == b).count();
            common / page_size * page_size > older.computed.max(known)
        })
    }

    /// Gives a sequence what the store has of its beginning. A page of which it needs only the first tokens,
    /// or that others hold too, is copied, as it will be written.
    fn begin(&mut self, index: usize) -> Result<(), WorkerError> {
        let page_size = self.cache.page_size();
        let sequence = &mut self.running[index];
        if !sequence.pages.is_empty() {
            return Ok(());
        }
        let cached = sequence.cached_prefix(&self.store);
        let prefix = self
            .store
            .hold_prefix(&sequence.ids[..cached], sequence.origin);
        let part = prefix.part;
        sequence.begin(prefix, page_size);
        if let Some(part) = part {
            let page = match self.store.claim(part) {
                true => Some(part.page),
                false => {
                    let page = self.store.take();
                    if let Some(page) = page {
                        self.cache.copy_page(part.page, page, part.rows)?;
                    }
                    self.store.release(part.page);
                    page
                }
            };
            if let Some(page) = page {
                sequence.pages.push(page);
                sequence.computed += part.rows;
            }
        }
        Ok(())
    }

    /// Notes what of a prompt was in the cache, before the first of its tokens is fed.
    fn count_in(&mut self, index: usize) {
        let sequence = &mut self.running[index];
        if sequence.cached.is_none() {
            sequence.cached = Some(sequence.computed);
            self.stats.prompt_tokens += sequence.prompt as u64;
            self.stats.cached_tokens += sequence.computed as u64;
        }
    }

    /// Takes pages for more tokens of a sequence: free ones, kept ones, then those of younger sequences.
    fn make_room(&mut self, index: usize, tokens: usize) -> Room {
        let sequence = &self.running[index];
        let needed = (sequence.computed + tokens).div_ceil(self.cache.page_size());
        loop {
            let sequence = &mut self.running[index];
            while sequence.pages.len() < needed
                && let Some(page) = self.store.take()
            {
                sequence.pages.push(page);
            }
            if sequence.pages.len() >= needed {
                return Room::Made;
            }
            if self.running.len() == 1 {
                return Room::TooSmall;
            }
            let is_youngest = index + 1 == self.running.len();
            self.preempt_youngest();
            if is_youngest {
                return Room::GivenUp;
            }
        }
    }

    /// Lets the youngest sequence wait until there are pages again; it is computed anew then.
    fn preempt_youngest(&mut self) {
        let mut sequence = self.running.pop().expect("a sequence runs");
        sequence.release(&mut self.store, self.cache.page_size());
        self.waiting.push_front(sequence);
        self.stats.preemptions += 1;
    }
}

/// What came of looking for pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Made,
    /// The sequence was the youngest, and waits.
    GivenUp,
    /// The pool is too small for the sequence alone.
    TooSmall,
}
