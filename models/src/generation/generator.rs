use std::time::Instant;

use quest_burn::{
    cache::PagedKvCache,
    decode::{DecodeError, DecodeGraph, DecodeGraphConfig},
};

use super::{
    Finish, GenerateError, GenerationConfig, Policies, Timings,
    answer::{Answer, Due},
    decode::decode_graph,
    forward::{Forward, read},
};
use crate::{lazy::LaterStages, model::LanguageModel, sampling::TokenMask};

/// New tokens after a prompt, one by one.
///
/// The first call of `next` prefills the prompt, in chunks that attend densely unless the
/// [policies](Policies) say otherwise; every further one decodes a token, whose attention reads the pages that
/// its policy chooses. After an error
/// the iterator is at its end.
///
/// The cache may hold earlier tokens, which the prompt then follows. Afterwards it holds all
/// tokens but the last one given out.
pub struct Generator<'a> {
    work: Work<'a>,
    answer: Answer<'a>,
}

/// What the model runs in.
#[allow(clippy::large_enum_variant, reason = "one is made per generation")]
enum Work<'a> {
    Forward(Forward<'a>),
    Graph(DecodeGraph<'a>),
    /// A graph was refused; the generation has failed.
    Gone,
}

impl<'a> Generator<'a> {
    /// A generator that is about to prefill `prompt`.
    ///
    /// # Errors
    ///
    /// When the prompt is empty, holds an id that the model does not know or has no room in the
    /// context or the cache, or when the configuration is invalid. Nothing was computed then.
    pub fn new(
        model: &'a dyn LanguageModel,
        cache: &'a mut PagedKvCache,
        policies: impl Into<Policies<'a>>,
        prompt: &[u32],
        config: GenerationConfig,
    ) -> Result<Self, GenerateError> {
        let forward = Forward {
            model,
            cache,
            policies: policies.into(),
            stages: None,
        };
        Ok(Self {
            answer: Answer::new(&forward, prompt, config)?,
            work: Work::Forward(forward),
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

    /// Chooses tokens that a mask allows, such as a
    #[cfg_attr(
        feature = "grammar",
        doc = "[`GrammarMatcher`](crate::grammar::GrammarMatcher);"
    )]
    #[cfg_attr(not(feature = "grammar"), doc = "`GrammarMatcher`;")]
    /// it ends when nothing may follow.
    pub fn with_mask(mut self, mask: impl TokenMask + 'a) -> Self {
        self.answer.set_mask(mask);
        self
    }

    /// With the stages behind the cache's layers, where tokens of prompts leave.
    pub(crate) fn with_stages(mut self, stages: &'a mut LaterStages) -> Self {
        if let Work::Forward(forward) = &mut self.work {
            forward.stages = Some(stages);
        }
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

    /// Times of what has been done so far.
    pub fn timings(&self) -> Timings {
        self.answer.timings
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
        let logits = forward.logits(hidden)?;
        let length = forward.length();
        if self.answer.config.capture && self.answer.config.max_new_tokens > 1 {
            // Before the logits are read, while the device still works on the prompt.
            self.record()?;
        }
        let id = self.answer.sample(&read(logits)?, length)?;
        if let Work::Graph(graph) = &mut self.work {
            graph.feed(&[id])?;
        }
        self.answer.prefilled(start);
        Ok(id)
    }

    fn decode(&mut self, newest: u32) -> Result<u32, GenerateError> {
        let start = Instant::now();
        let id = match &mut self.work {
            Work::Forward(forward) => {
                let hidden = forward.decode(newest)?;
                let logits = read(forward.logits(hidden)?)?;
                let length = forward.length();
                self.answer.sample(&logits, length)
            }
            Work::Graph(graph) if self.answer.is_argmax() => match graph.step() {
                Ok(ids) => Ok(ids[0].expect("the sequence is active")),
                // The sampler says what is wrong with them.
                Err(DecodeError::Logits { .. }) => self.sample_graph(),
                Err(error) => Err(error.into()),
            },
            Work::Graph(graph) => {
                graph.feed(&[newest])?;
                graph.advance()?;
                self.sample_graph()
            }
            Work::Gone => unreachable!("nothing is decoded after an error"),
        }?;
        self.answer.timings.decode_tokens += 1;
        self.answer.timings.decode += start.elapsed();
        Ok(id)
    }

    /// Goes over to recorded steps where the device has them. The token to be fed first is not
    /// known yet.
    fn record(&mut self) -> Result<(), GenerateError> {
        let is_possible = match &self.work {
            Work::Forward(forward) => {
                forward.stages.is_none()
                    && forward.policies.decode.is_capturable()
                    && forward.model.is_capturable()
                    && DecodeGraph::records(forward.cache)
            }
            Work::Graph(_) | Work::Gone => false,
        };
        if !is_possible {
            return Ok(());
        }
        let Work::Forward(forward) = std::mem::replace(&mut self.work, Work::Gone) else {
            unreachable!("it was matched above");
        };
        let Forward {
            model,
            cache,
            policies,
            stages: _,
        } = forward;
        let config = DecodeGraphConfig::new();
        let mut graph = decode_graph(model, cache, policies.decode, &[0], config)?;
        graph.prepare()?;
        self.work = Work::Graph(graph);
        Ok(())
    }

    /// A token by the logits of the last recorded step.
    fn sample_graph(&mut self) -> Result<u32, GenerateError> {
        let Work::Graph(graph) = &self.work else {
            unreachable!("a step was taken");
        };
        let logits = graph.logits()?.expect("a step was taken").remove(0);
        let length = graph.lengths()[0];
        self.answer.sample(&logits, length)
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<u32, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let id = match self.answer.due()? {
            Due::Prefill => self.prefill(),
            Due::Decode { newest, .. } => self.decode(newest),
        };
        self.answer.advance(&id);
        Some(id)
    }
}

impl std::iter::FusedIterator for Generator<'_> {}
