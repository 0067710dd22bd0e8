use std::{collections::VecDeque, time::Instant};

use quest_burn::{
    cache::PagedKvCache,
    decode::{DecodeError, DecodeGraphConfig, DraftGraph},
};

use super::{Draft, DraftStatistics, LosslessConfig, verify};
use crate::{
    generation::{
        Answer, Due, Finish, Forward, GenerateError, GenerationConfig, Policies, Timings,
        draft_graph, read,
    },
    model::LanguageModel,
    sampling::{Distribution, Sampler},
};

/// New tokens after a prompt, one by one, as dense attention would give them; those that the policy drafts
/// well cost little.
///
/// It is used as a [`Generator`](crate::generation::Generator). When it is dropped, the cache holds all tokens
/// but the last one given out.
pub struct LosslessGenerator<'a> {
    work: Work<'a>,
    answer: Answer<'a>,
    lossless: LosslessConfig,
    /// Verified tokens that are not given out yet.
    verified: VecDeque<u32>,
    /// Tokens that were given out and are in the cache, or would be without drafts.
    held: usize,
    statistics: DraftStatistics,
}

/// What the model runs in.
#[allow(clippy::large_enum_variant, reason = "one is made per generation")]
enum Work<'a> {
    Forward(Forward<'a>),
    Graph(DraftGraph<'a>),
    /// A graph was refused, or the generation is over.
    Gone,
}

/// What dense attention says of the tokens of a pass.
enum Targets {
    MostProbable(Vec<u32>),
    Logits(Vec<Vec<f32>>),
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
        policies: impl Into<Policies<'a>>,
        prompt: &[u32],
        config: GenerationConfig,
        lossless: LosslessConfig,
    ) -> Result<Self, GenerateError> {
        lossless.validate()?;
        let forward = Forward {
            model,
            cache,
            policies: policies.into(),
            stages: None,
        };
        Ok(Self {
            answer: Answer::new(&forward, prompt, config)?,
            held: forward.length(),
            work: Work::Forward(forward),
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

    /// Gives the prompt up when `is_stopped` says so after a chunk of it: the first call of `next` is
    /// [`GenerateError::Stopped`] then, and the cache holds the tokens that it held before. What policies remember
    /// of these is forgotten, as after truncating.
    pub fn stop_prefill_when(mut self, is_stopped: impl FnMut() -> bool + 'a) -> Self {
        self.answer.stop_prefill_when(is_stopped);
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
        let Work::Forward(forward) = &mut self.work else {
            unreachable!("the prompt comes first");
        };
        let start = Instant::now();
        let hidden = self.answer.prefill(forward)?;
        self.held = forward.length();
        let logits = forward.logits(hidden)?;
        if self.answer.config.max_new_tokens > 1 {
            // Before the logits are read, while the device still works on the prompt.
            self.record()?;
        }
        let id = self.answer.sample(&read(logits)?, self.held)?;
        self.answer.prefilled(start);
        Ok(id)
    }

    /// Goes over to rounds of drafts.
    fn record(&mut self) -> Result<(), GenerateError> {
        let Work::Forward(Forward {
            model,
            cache,
            policies,
            stages: _,
        }) = std::mem::replace(&mut self.work, Work::Gone)
        else {
            unreachable!("the prompt comes first");
        };
        let config = DecodeGraphConfig::new().with_capture(self.answer.config.capture);
        let drafts = self.lossless.draft_tokens;
        let mut graph = draft_graph(model, cache, policies.decode, drafts, config)?;
        let reserved = graph.reserve(self.n_drafts(1));
        self.work = Work::Graph(graph);
        Ok(reserved?)
    }

    /// Tokens to draft after so many new ones: a pass gives a token of its own, and no more are asked for
    /// than these.
    fn n_drafts(&self, new_tokens: usize) -> usize {
        let room = self.answer.config.max_new_tokens - new_tokens - 1;
        self.lossless.draft_tokens.min(room)
    }

    /// The next token: one that is verified already, or the first of a new pass.
    fn decode(&mut self, newest: u32, new_tokens: usize) -> Result<u32, GenerateError> {
        if self.verified.is_empty() {
            let start = Instant::now();
            self.round(newest, self.n_drafts(new_tokens))?;
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
        let Work::Graph(graph) = &mut self.work else {
            unreachable!("the prompt is done, and there was no error");
        };
        let sampler = &mut self.answer.sampler;
        let held = self.held;
        graph.reserve(n_drafts)?;
        let drafts = draft(graph, sampler, newest, n_drafts, held)?;
        let drafted = drafts.iter().map(|draft| draft.id).collect::<Vec<_>>();
        let fed = core::iter::once(newest).chain(drafted.iter().copied());
        graph.verify(&fed.collect::<Vec<_>>())?;
        let targets = Targets::of(graph, sampler)?;
        let verdict = verify(&drafts, sampler, |sampler, i| match &targets {
            Targets::MostProbable(ids) => Ok(Distribution::certain(ids[i])),
            Targets::Logits(rows) => sampler.distribution(&rows[i], &drafted[..i]),
        });
        let verdict = verdict.map_err(|source| GenerateError::Sample {
            length: held,
            source,
        })?;
        graph.keep(1 + verdict.accepted)?;
        let accepted = drafted[..verdict.accepted].iter().copied();
        self.verified.extend(accepted.chain([verdict.next]));
        sampler.observe(self.verified.make_contiguous());
        self.statistics.passes += 1;
        self.statistics.drafted += n_drafts;
        self.statistics.accepted += verdict.accepted;
        Ok(())
    }
}

impl Targets {
    fn of(graph: &DraftGraph<'_>, sampler: &Sampler) -> Result<Self, GenerateError> {
        if sampler.is_argmax() {
            let ids = graph.most_probable()?;
            if let Some(ids) = ids.into_iter().collect() {
                return Ok(Self::MostProbable(ids));
            }
            // The sampler says what is wrong, if it comes to these.
        }
        Ok(Self::Logits(graph.logits()?))
    }
}

/// Tokens that the policy chooses after the newest one. `held` tokens are before it.
fn draft(
    graph: &mut DraftGraph<'_>,
    sampler: &mut Sampler,
    newest: u32,
    n: usize,
    held: usize,
) -> Result<Vec<Draft>, GenerateError> {
    if sampler.is_argmax() {
        match graph.draft_most_probable(newest, n) {
            Ok(ids) => {
                let certain = |id| Draft {
                    id,
                    from: Distribution::certain(id),
                };
                return Ok(ids.into_iter().map(certain).collect());
            }
            // The sampler says what is wrong with them.
            Err(DecodeError::Logits { .. }) => graph.undo_drafts()?,
            Err(error) => return Err(error.into()),
        }
    }
    let mut drafts = Vec::with_capacity(n);
    let mut drafted = Vec::with_capacity(n);
    let mut last = newest;
    for i in 0..n {
        let logits = graph.draft(last)?;
        let from = sampler.distribution(&logits, &drafted);
        let from = from.map_err(|source| GenerateError::Sample {
            length: held + i,
            source,
        })?;
        last = sampler.draw_from(&from);
        drafted.push(last);
        drafts.push(Draft { id: last, from });
    }
    Ok(drafts)
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
        if let Work::Graph(graph) = std::mem::replace(&mut self.work, Work::Gone)
            && !std::thread::panicking()
        {
            let finished = graph.finish(self.held);
            finished.expect("the cache held these tokens");
        }
    }
}
