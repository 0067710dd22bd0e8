//! Many conversations at once, through the engine: what each client sees of its tokens.
//!
//! Conversations begin with prompts of their own, which stay in the cache: dense attention and Quest go on
//! from the same pages. Times are those of clients, a thread each, from the host's clock.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use quest_burn::QuestConfig;
use quest_burn_engine::{Answer, Engine, EngineConfig, Event, Policy, Request};
use quest_burn_models::local::LocalModel;
use quest_burn_report::count;

use crate::{
    BenchError, Launch, Record, Rows, Target, Timing,
    attention::Effort,
    memory,
    model::{LoadedModel, ModelOptions, ModelPlan},
    record::Kind,
};

/// Options of `bench engine`.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// Conversations at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    conversations: u16,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value = "32K")]
    context: usize,
    /// Tokens that Quest attends to
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value = "2048")]
    budget: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..))]
    new_tokens: u16,
    /// Query tokens of a step of the engine: of prompts, beside one of each conversation
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value = "512")]
    step_tokens: usize,
    /// How decode steps are launched [default: graph where the device records]
    #[arg(long, value_enum)]
    launch: Option<Launch>,
    #[command(flatten)]
    effort: Effort,
}

/// Measures what the options ask for, and prints each result as it comes.
///
/// # Errors
///
/// When an option cannot be served or the device fails.
pub(crate) fn run(
    options: &EngineOptions,
    target: &Target,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let quest = QuestConfig::new().with_token_budget(options.budget);
    quest.validate_for(LocalModel::PAGE_SIZE)?;
    let launch = match options.launch {
        Some(asked) => target.launches(&[asked])?[0],
        None if target.is_gpu() => Launch::Graph,
        None => Launch::Plain,
    };
    let config = options.config().with_recording(launch == Launch::Graph);
    config.validate()?;
    let limit = memory::limit(target, options.effort.memory_limit);
    let loaded = ModelPlan::new(&options.model, target, limit)?.load(target)?;
    let cache = loaded.model.cache(1, config.pool_tokens);
    let needed = loaded.weight_bytes() + cache.bytes(loaded.model.dtype());
    if needed > limit {
        return Err(BenchError::Option {
            option: "--conversations",
            expected: format!("weights and KV cache of at most {limit} bytes"),
            found: format!("{} that take {needed}", options.conversations),
        });
    }
    let clients = Clients {
        engine: Engine::start(loaded.model.clone(), config)?,
        options,
        launch,
    };
    let failed = clients.record(&loaded, "all");
    rows.attempt(failed, |rows| {
        clients.prompts(&loaded, rows)?;
        clients.warm_prompts(&loaded, rows)?;
        clients.answers(&loaded, Policy::Dense, rows)?;
        clients.answers(&loaded, Policy::Quest(quest), rows)?;
        clients.beside_a_prompt(&loaded, rows)
    })?;
    clients.engine.shutdown();
    rows.finish()
}

impl EngineOptions {
    fn config(&self) -> EngineConfig {
        let conversations = usize::from(self.conversations);
        // What they hold, their answers under each policy, and a prompt that comes beside them.
        let of_each = self.context + 4 * usize::from(self.new_tokens) + 64;
        let beside = self.context + 64 + self.most_beside();
        EngineConfig::new(conversations * of_each + beside)
            .with_max_sequences(conversations + 1)
            .with_step_tokens(self.step_tokens)
    }

    /// Tokens of an answer that lasts longer than a prompt takes.
    fn most_beside(&self) -> usize {
        4 * self.context.div_ceil(self.step_tokens) + 64
    }
}

/// Those who ask.
struct Clients<'a> {
    engine: Engine,
    options: &'a EngineOptions,
    /// How steps that decode are launched.
    launch: Launch,
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
    fn record(&self, loaded: &LoadedModel, operation: &str) -> Record {
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
    fn prompts(&self, loaded: &LoadedModel, rows: &mut Rows) -> Result<(), BenchError> {
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
    fn warm_prompts(&self, loaded: &LoadedModel, rows: &mut Rows) -> Result<(), BenchError> {
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
    fn answers(
        &self,
        loaded: &LoadedModel,
        policy: Policy,
        rows: &mut Rows,
    ) -> Result<(), BenchError> {
        let n = self.options.new_tokens.into();
        if self.launch == Launch::Graph {
            // Steps are recorded by answers that are not timed.
            self.ask_all(n, &policy)?;
        }
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
        rows.push(Record {
            budget,
            launch: Some(self.launch),
            tokens_per_s: Some(came.len() as f64 * 1e6 / timing.median_us),
            timing: Some(timing),
            ..self.record(loaded, operation)
        })
    }

    /// Tokens of one conversation while a prompt that nothing is known of comes in.
    fn beside_a_prompt(&self, loaded: &LoadedModel, rows: &mut Rows) -> Result<(), BenchError> {
        let n = self.options.most_beside();
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
            rows.push(Record {
                batch: Some(1),
                timing: Some(Timing::of(gaps)),
                ..self.record(loaded, "beside a prompt")
            })?;
            rows.push(Record {
                batch: Some(1),
                timing: Some(Timing::of(vec![came.first_us()])),
                tokens_per_s: Some(self.options.context as f64 * 1e6 / came.first_us()),
                ..self.record(loaded, "first token")
            })
        })
    }
}
