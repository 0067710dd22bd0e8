//! Those who ask an engine, and what they see.

use std::{
    thread,
    time::{Duration, Instant},
};

use quest_burn_engine::{Answer, Engine, Event, Policy, Request, Stats};

use super::EngineOptions;
use crate::{BenchError, Launch, Record, Rows, Timing, model::LoadedModel, record::Kind};

/// Tokens of an answer that is not timed, at least: more than there are plain steps before one is recorded.
const WARM_UP: usize = 16;

/// Those who ask.
pub(super) struct Clients<'a> {
    pub engine: Engine,
    pub options: &'a EngineOptions,
    /// How steps that decode are to be launched.
    pub launch: Launch,
}

/// When the tokens of an answer came.
struct Came {
    asked: Instant,
    tokens: Vec<Instant>,
}

impl Came {
    /// Takes the tokens of an answer as they come.
    fn of(asked: Instant, mut answer: Answer) -> Result<Self, BenchError> {
        let mut tokens = Vec::new();
        while let Some(event) = answer.blocking_next() {
            match event {
                Event::Token(_) => tokens.push(Instant::now()),
                Event::Finished { .. } => return Ok(Self { asked, tokens }),
                Event::Failed { error } => return Err(BenchError::Answer(error)),
            }
        }
        Err(BenchError::Answer("the engine has ended".to_owned()))
    }

    fn first_us(&self) -> f64 {
        us(self.tokens[0] - self.asked)
    }

    /// Times between tokens that came within an interval.
    fn gaps_us(&self, from: Instant, to: Instant) -> impl Iterator<Item = f64> {
        let pairs = self.tokens.windows(2);
        let within = pairs.filter(move |pair| pair[1] >= from && pair[0] <= to);
        within.map(|pair| us(pair[1] - pair[0]))
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Clients<'_> {
    pub(super) fn record(&self, loaded: &LoadedModel, operation: &str) -> Record {
        let options = self.options;
        let conversations = usize::from(options.conversations);
        Record {
            page_size: Some(loaded.model.page_size()),
            digest: Some(loaded.model.digest().name()),
            digests: Some(loaded.model.digest_storage().name()),
            kv_cache: Some(loaded.model.kv_storage().name()),
            chunk: Some(options.step_tokens),
            ..loaded.record(Kind::Decode, operation, conversations, options.context)
        }
    }

    /// A record of decode steps with how they were launched since then. It is of no measurement where steps were to be
    /// replayed and most of them were not: their times are not those of replays.
    fn launched_since(&self, before: Stats, record: Record) -> Record {
        let now = self.engine.stats();
        let recorded = now.recorded_steps - before.recorded_steps;
        let plain = now.plain_steps - before.plain_steps;
        let record = Record {
            launch: Some(self.launch),
            recorded_steps: Some(recorded),
            plain_steps: Some(plain),
            recordings: Some(now.recordings - before.recordings),
            ..record
        };
        if self.launch == Launch::Plain || recorded > plain {
            return record;
        }
        Record {
            kind: Kind::Skipped,
            timing: None,
            tokens_per_s: None,
            reason: Some(format!(
                "of {} decode steps {recorded} were recorded",
                recorded + plain
            )),
            ..record
        }
    }

    /// Ids without a meaning that no other conversation has.
    fn prompt(&self, conversation: usize) -> Vec<u32> {
        let vocab_size = self.engine.model().config().vocab_size;
        let id = |i: usize| (i * 7919 + i / 7 * conversation + conversation * 31) % vocab_size;
        (0..self.options.context).map(|i| id(i) as u32).collect()
    }

    fn submit(&self, conversation: usize, n: usize, policy: &Policy) -> Result<Answer, BenchError> {
        let request = Request::new(self.prompt(conversation), n).with_policy(policy.clone());
        Ok(self.engine.submit(request)?)
    }

    /// All conversations ask at once.
    fn ask_all(&self, n: usize, policy: &Policy) -> Result<Vec<Came>, BenchError> {
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for conversation in 0..self.options.conversations.into() {
                let asked = Instant::now();
                let answer = self.submit(conversation, n, policy)?;
                clients.push(scope.spawn(move || Came::of(asked, answer)));
            }
            let joined = clients.into_iter().map(|client| {
                let came = client.join();
                came.unwrap_or_else(|_| Err(BenchError::Answer("a client panicked".to_owned())))
            });
            joined.collect()
        })
    }

    /// Prompts that nothing is known of.
    pub(super) fn prompts(&self, loaded: &LoadedModel, rows: &mut Rows) -> Result<(), BenchError> {
        // Kernels are compiled, by a conversation that is none of those that are timed.
        let other = usize::from(self.options.conversations) + 1;
        Came::of(Instant::now(), self.submit(other, 4, &Policy::Dense)?)?;
        let begin = Instant::now();
        let came = self.ask_all(1, &Policy::Dense)?;
        let tokens = came.len() * self.options.context;
        rows.push(Record {
            timing: Some(Timing::of(came.iter().map(Came::first_us).collect())),
            tokens_per_s: Some(tokens as f64 / begin.elapsed().as_secs_f64()),
            ..self.record(loaded, "first token, cold")
        })
    }

    /// Prompts whose pages are there, one by one.
    pub(super) fn warm_prompts(
        &self,
        loaded: &LoadedModel,
        rows: &mut Rows,
    ) -> Result<(), BenchError> {
        // Kernels for the few tokens that are left of a prompt are compiled.
        Came::of(Instant::now(), self.submit(0, 1, &Policy::Dense)?)?;
        let conversations = 0..usize::from(self.options.conversations);
        let times = conversations.map(|conversation| {
            let asked = Instant::now();
            let came = Came::of(asked, self.submit(conversation, 1, &Policy::Dense)?)?;
            Ok(came.first_us())
        });
        let times = times.collect::<Result<Vec<_>, BenchError>>()?;
        rows.push(Record {
            timing: Some(Timing::of(times)),
            ..self.record(loaded, "first token, warm")
        })
    }

    /// Tokens of all conversations while all of them answer.
    pub(super) fn answers(
        &self,
        loaded: &LoadedModel,
        policy: Policy,
        rows: &mut Rows,
    ) -> Result<(), BenchError> {
        let n = usize::from(self.options.new_tokens);
        // Kernels are compiled, and steps recorded, by answers that are not timed.
        self.ask_all(n.max(WARM_UP), &policy)?;
        let before = self.engine.stats();
        let came = self.ask_all(n, &policy)?;
        let firsts = came.iter().map(|came| came.tokens[0]);
        let lasts = came.iter().map(|came| came.tokens[came.tokens.len() - 1]);
        let (from, to) = (firsts.max(), lasts.min());
        let (from, to) = from.zip(to).expect("there is a conversation");
        let gaps = came.iter().flat_map(|came| came.gaps_us(from, to));
        let gaps = gaps.collect::<Vec<_>>();
        if gaps.is_empty() {
            return Err(BenchError::Answer(
                "expected answers that overlap, found that they end before others begin; more \
                 `--new-tokens` help"
                    .to_owned(),
            ));
        }
        let timing = Timing::of(gaps);
        let (operation, budget) = match policy {
            Policy::Dense => ("dense", None),
            Policy::Quest(config) => ("quest", Some(config.token_budget)),
        };
        rows.push(self.launched_since(
            before,
            Record {
                budget,
                tokens_per_s: Some(came.len() as f64 * 1e6 / timing.median_us),
                timing: Some(timing),
                ..self.record(loaded, operation)
            },
        ))
    }

    /// Tokens of one conversation while a prompt that nothing is known of comes in.
    pub(super) fn beside_a_prompt(
        &self,
        loaded: &LoadedModel,
        rows: &mut Rows,
    ) -> Result<(), BenchError> {
        let n = self.options.most_beside();
        // Steps of one conversation, which are not those of all, are recorded by an answer that is not timed.
        Came::of(Instant::now(), self.submit(0, n, &Policy::Dense)?)?;
        let before = self.engine.stats();
        let asked = Instant::now();
        let mut answer = self.submit(0, n, &Policy::Dense)?;
        // Its prompt is done.
        let Some(Event::Token(_)) = answer.blocking_next() else {
            return Err(BenchError::Answer("expected a first token".to_owned()));
        };
        thread::scope(|scope| {
            let stream = scope.spawn(move || Came::of(asked, answer));
            let new = usize::from(self.options.conversations);
            let from = Instant::now();
            let came = Came::of(from, self.submit(new, 1, &Policy::Dense)?)?;
            let to = came.tokens[0];
            let stream = stream.join();
            let stream = stream
                .unwrap_or_else(|_| Err(BenchError::Answer("a client panicked".to_owned())))?;
            let gaps = stream.gaps_us(from, to).collect::<Vec<_>>();
            rows.push(self.launched_since(
                before,
                Record {
                    batch: Some(1),
                    timing: Some(Timing::of(gaps)),
                    ..self.record(loaded, "beside a prompt")
                },
            ))?;
            rows.push(Record {
                batch: Some(1),
                timing: Some(Timing::of(vec![came.first_us()])),
                tokens_per_s: Some(self.options.context as f64 * 1e6 / came.first_us()),
                ..self.record(loaded, "first token")
            })
        })
    }
}
