use std::{collections::VecDeque, time::Instant};

use quest_burn::{cache::PagedKvCache, policy::PagePolicy};

use super::{Draft, DraftStatistics, LosslessConfig, verify};
use crate::{
    generation::{Answer, Due, Finish, Forward, GenerateError, GenerationConfig, Timings},
    model::LanguageModel,
    sampling::SampleError,
};

/// New tokens after a prompt, one by one, as dense attention would give them; those that the policy drafts
/// well cost little.
///
/// It is used as a [`Generator`](crate::generation::Generator). Steps are not recorded, as drafts go back
/// again and again. When it is dropped, the cache holds all tokens but the last one given out.
pub struct LosslessGenerator<'a> {
    forward: Forward<'a>,
    answer: Answer<'a>,
    lossless: LosslessConfig,
    /// Verified tokens that are not given out yet.
    verified: VecDeque<u32>,
    /// Tokens that were given out and are in the cache, or would be without drafts.
    held: usize,
    statistics: DraftStatistics,
}

impl<'a> LosslessGenerator<'a> {
    /// A generator that is about to prefill `prompt`.
    ///
    /// # Errors
    ///
    /// As [`Generator::new`](crate::generation::Generator::new), and when no token would be drafted.
    pub fn new(
        model: &'a dyn LanguageModel,
        cache: &'a mut PagedKvCache,
        policy: &'a dyn PagePolicy,
        prompt: &[u32],
        config: GenerationConfig,
        lossless: LosslessConfig,
    ) -> Result<Self, GenerateError> {
        lossless.validate()?;
        let forward = Forward {
            model,
            cache,
            policy,
        };
        Ok(Self {
            answer: Answer::new(&forward, prompt, config)?,
            held: forward.length(),
            forward,
            lossless,
            verified: VecDeque::new(),
            statistics: DraftStatistics::default(),
        })
    }

    /// Calls `progress` after each chunk of the prompt with the number of tokens done.
    pub fn on_prefill(mut self, progress: impl FnMut(usize) + 'a) -> Self {
        self.answer.on_prefill(progress);
        self
    }

    /// Takes note of tokens that the cache held before, for the repetition penalty.
    pub(crate) fn observe(&mut self, ids: &[u32]) {
        self.answer.sampler.observe(ids);
    }

    /// Tokens that end the generation.
    pub(crate) fn stop_ids(&self) -> &[u32] {
        self.answer.stop_ids()
    }

    /// Times of what has been done so far. A token of a pass that gave several takes its share when the
    /// first of them is given out.
    pub fn timings(&self) -> Timings {
        self.answer.timings
    }

    /// What became of drafts so far.
    pub fn statistics(&self) -> DraftStatistics {
        self.statistics
    }

    /// Why it ended; `None` before the end and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.answer.finish()
    }

    fn prefill(&mut self) -> Result<u32, GenerateError> {
        let start = Instant::now();
        let hidden = self.answer.prefill(&mut self.forward)?;
        self.held = self.forward.length();
        let logits = self.forward.logits(hidden)?;
        let id = self.answer.sample(&logits, self.held)?;
        self.answer.prefilled(start);
        Ok(id)
    }

    /// The next token: one that is verified already, or the first of a new pass.
    fn decode(&mut self, newest: u32, new_tokens: usize) -> Result<u32, GenerateError> {
        if self.verified.is_empty() {
            let start = Instant::now();
            // A pass gives a token of its own, and no more are asked for than these.
            let room = self.answer.config.max_new_tokens - new_tokens - 1;
            self.round(newest, self.lossless.draft_tokens.min(room))?;
            self.answer.timings.decode += start.elapsed();
        }
        let id = self.verified.pop_front();
        let id = id.expect("a pass gives a token");
        self.held += 1;
        self.answer.timings.decode_tokens += 1;
        Ok(id)
    }

    /// Drafts tokens after the newest one, and verifies them with it.
    fn round(&mut self, newest: u32, n_drafts: usize) -> Result<(), GenerateError> {
        let before = self.forward.length();
        let drafts = self.draft(newest, n_drafts)?;
        if n_drafts > 0 {
            self.forward.cache.truncate(0, before)?;
        }
        let drafted = drafts.iter().map(|draft| draft.id).collect::<Vec<_>>();
        let fed = core::iter::once(newest).chain(drafted.iter().copied());
        let hidden = self.forward.prefill_all(&fed.collect::<Vec<_>>())?;
        let logits = self.forward.logits(hidden)?;
        let rows = logits.chunks_exact(self.forward.vocab_size());
        let rows = rows.collect::<Vec<_>>();
        let verdict = verify(&drafts, &mut self.answer.sampler, |sampler, i| {
            sampler.distribution(rows[i], &drafted[..i])
        });
        let verdict = verdict.map_err(|source| self.no_token(0, source))?;
        self.forward
            .cache
            .truncate(0, before + 1 + verdict.accepted)?;
        let accepted = drafted[..verdict.accepted].iter().copied();
        self.verified.extend(accepted.chain([verdict.next]));
        self.answer.sampler.observe(self.verified.make_contiguous());
        self.statistics.passes += 1;
        self.statistics.drafted += n_drafts;
        self.statistics.accepted += verdict.accepted;
        Ok(())
    }

    /// Tokens that the policy chooses after the newest one. They stay in the cache but for the last.
    fn draft(&mut self, newest: u32, n: usize) -> Result<Vec<Draft>, GenerateError> {
        let mut drafts = Vec::with_capacity(n);
        let mut drafted = Vec::with_capacity(n);
        let mut last = newest;
        for i in 0..n {
            let hidden = self.forward.decode(last)?;
            let logits = self.forward.logits(hidden)?;
            let from = self.answer.sampler.distribution(&logits, &drafted);
            let from = from.map_err(|source| self.no_token(i, source))?;
            last = self.answer.sampler.draw_from(&from);
            drafted.push(last);
            drafts.push(Draft { id: last, from });
        }
        Ok(drafts)
    }

    fn no_token(&self, drafted: usize, source: SampleError) -> GenerateError {
        GenerateError::Sample {
            length: self.held + drafted,
            source,
        }
    }
}

impl Iterator for LosslessGenerator<'_> {
    type Item = Result<u32, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = match self.answer.due()? {
            Due::Prefill => self.prefill(),
            Due::Decode { newest, new_tokens } => self.decode(newest, new_tokens),
        };
        self.answer.advance(&id);
        Some(id)
    }
}

impl std::iter::FusedIterator for LosslessGenerator<'_> {}

impl Drop for LosslessGenerator<'_> {
    fn drop(&mut self) {
        // After an error, or an answer that ended within a pass.
        if self.forward.length() > self.held {
            let truncated = self.forward.cache.truncate(0, self.held);
            truncated.expect("the cache held these tokens");
        }
    }
}
