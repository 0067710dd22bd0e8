use std::{collections::VecDeque, time::Instant};

use quest_burn::{cache::PagedKvCache, policy::PagePolicy};

use super::{Draft, DraftStatistics, LosslessConfig, verify};
use crate::{
    generation::{Finish, Forward, GenerateError, GenerationConfig, Timings},
    model::LanguageModel,
    sampling::Sampler,
};

/// New tokens after a prompt, one by one, as dense attention would give them; those that the policy drafts
/// well cost little.
///
/// It is used as a [`Generator`](crate::generation::Generator). Steps are not recorded, as drafts go back
/// again and again. When it is dropped, the cache holds all tokens but the last one given out.
pub struct LosslessGenerator<'a> {
    forward: Forward<'a>,
    config: GenerationConfig,
    lossless: LosslessConfig,
    sampler: Sampler,
    prompt: Vec<u32>,
    on_prefill: Option<Box<dyn FnMut(usize) + 'a>>,
    state: State,
    /// Verified tokens that are not given out yet.
    verified: VecDeque<u32>,
    /// Tokens that were given out and are in the cache, or would be without drafts.
    held: usize,
    timings: Timings,
    statistics: DraftStatistics,
}

enum State {
    Prompt,
    /// The newest token is not in the cache yet.
    Decode {
        newest: u32,
        new_tokens: usize,
    },
    Finished(Finish),
    Failed,
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
        config.check(prompt, forward.vocab_size())?;
        forward.check_room(prompt.len(), config.max_new_tokens, config.max_context)?;
        let mut sampler = config.sampling.init()?;
        sampler.observe(prompt);
        Ok(Self {
            state: match config.max_new_tokens {
                0 => State::Finished(Finish::Length),
                _ => State::Prompt,
            },
            held: forward.length(),
            forward,
            config,
            lossless,
            sampler,
            prompt: prompt.to_vec(),
            on_prefill: None,
            verified: VecDeque::new(),
            timings: Timings::default(),
            statistics: DraftStatistics::default(),
        })
    }

    /// Calls `progress` after each chunk of the prompt with the number of tokens done.
    pub fn on_prefill(mut self, progress: impl FnMut(usize) + 'a) -> Self {
        self.on_prefill = Some(Box::new(progress));
        self
    }

    /// Takes note of tokens that the cache held before, for the repetition penalty.
    pub(crate) fn observe(&mut self, ids: &[u32]) {
        self.sampler.observe(ids);
    }

    /// Tokens that end the generation.
    pub(crate) fn stop_ids(&self) -> &[u32] {
        self.config.stop_ids.as_deref().unwrap_or_default()
    }

    /// Times of what has been done so far. A token of a pass that gave several takes its share when the
    /// first of them is given out.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// What became of drafts so far.
    pub fn statistics(&self) -> DraftStatistics {
        self.statistics
    }

    /// Why it ended; `None` before the end and after an error.
    pub fn finish(&self) -> Option<Finish> {
        match self.state {
            State::Finished(finish) => Some(finish),
            _ => None,
        }
    }

    fn prefill(&mut self) -> Result<u32, GenerateError> {
        let start = Instant::now();
        let progress = (self.on_prefill.as_mut()).map(|progress| progress as &mut dyn FnMut(usize));
        let chunk = self.config.prefill_chunk;
        let hidden = self.forward.prefill(&self.prompt, chunk, progress)?;
        self.held = self.forward.length();
        let logits = self.forward.logits(hidden)?;
        let sampled = self.sampler.sample(&logits);
        let id = sampled.map_err(|source| self.no_token(0, source))?;
        self.sampler.observe(&[id]);
        self.timings.prefill_tokens = self.prompt.len();
        self.timings.prefill = start.elapsed();
        Ok(id)
    }

    /// The next token: one that is verified already, or the first of a new pass.
    fn decode(&mut self, newest: u32, new_tokens: usize) -> Result<u32, GenerateError> {
        if self.verified.is_empty() {
            let start = Instant::now();
            // A pass gives a token of its own, and no more are asked for than these.
            let room = self.config.max_new_tokens - new_tokens - 1;
            self.round(newest, self.lossless.draft_tokens.min(room))?;
            self.timings.decode += start.elapsed();
        }
        let id = self.verified.pop_front();
        let id = id.expect("a pass gives a token");
        self.held += 1;
        self.timings.decode_tokens += 1;
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
        let verdict = verify(&drafts, &mut self.sampler, |sampler, i| {
            sampler.distribution(rows[i], &drafted[..i])
        });
        let verdict = verdict.map_err(|source| self.no_token(0, source))?;
        self.forward
            .cache
            .truncate(0, before + 1 + verdict.accepted)?;
        let accepted = drafted[..verdict.accepted].iter().copied();
        self.verified.extend(accepted.chain([verdict.next]));
        self.sampler.observe(self.verified.make_contiguous());
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
            let from = self.sampler.distribution(&logits, &drafted);
            let from = from.map_err(|source| self.no_token(i, source))?;
            last = self.sampler.draw_from(&from);
            drafted.push(last);
            drafts.push(Draft { id: last, from });
        }
        Ok(drafts)
    }

    fn no_token(&self, drafted: usize, source: crate::sampling::SampleError) -> GenerateError {
        GenerateError::Sample {
            length: self.held + drafted,
            source,
        }
    }

    fn state_after(&self, id: u32, new_tokens: usize) -> State {
        if self.stop_ids().contains(&id) {
            State::Finished(Finish::Stop)
        } else if new_tokens == self.config.max_new_tokens {
            State::Finished(Finish::Length)
        } else {
            State::Decode {
                newest: id,
                new_tokens,
            }
        }
    }
}

impl Iterator for LosslessGenerator<'_> {
    type Item = Result<u32, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (id, new_tokens) = match self.state {
            State::Prompt => (self.prefill(), 1),
            State::Decode { newest, new_tokens } => {
                (self.decode(newest, new_tokens), new_tokens + 1)
            }
            State::Finished(_) | State::Failed => return None,
        };
        self.state = match &id {
            Ok(id) => self.state_after(*id, new_tokens),
            Err(_) => State::Failed,
        };
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
