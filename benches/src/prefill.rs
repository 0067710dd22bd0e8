//! The prompt of a whole model, in chunks: dense, and with the pages of the past that Quest chooses for each chunk.

use std::time::Instant;

use clap::{Args, ValueEnum};
use quest_burn::{
    QuestConfig,
    cache::{KvStorage, PagedKvCache},
    policy::{PrefillConfig, QuestPrefillConfig},
};
use quest_burn_models::generation::prefill;
use quest_burn_report::count;

use crate::{
    BenchError, Launch, Record, Rows, Target, Timing,
    attention::Effort,
    bandwidth,
    decode::reserved,
    memory,
    model::{CacheOptions, LoadedModel, ModelOptions, ModelPlan},
    parse, read,
    record::Kind,
};

/// Options of `bench prefill`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PrefillOptions {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Tokens of the prompt, as in 8K,32K
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["8K", "32K"])]
    pub contexts: Vec<usize>,
    /// Tokens that go through the model at once
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["2048"])]
    pub chunks: Vec<usize>,
    /// What the tokens of the prompt attend to
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [PrefillName::Dense])]
    pub policies: Vec<PrefillName>,
    /// Tokens of the past that a chunk attends to with `quest`, beside itself
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values_t = [QuestPrefillConfig::new().token_budget])]
    pub budgets: Vec<usize>,
    #[command(flatten)]
    pub cache_options: CacheOptions,
    /// Numbers that keys and values are kept in
    #[arg(long, value_name = "FORM", value_parser = parse::kv_storages(), default_value_t = KvStorage::Full)]
    pub kv_cache: KvStorage,
    /// Timed prompts; their median is reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub prompts: u16,
    #[command(flatten)]
    pub effort: Effort,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum PrefillName {
    Dense,
    Quest,
}

impl PrefillOptions {
    /// What prompts go through, in turn.
    fn policies(&self) -> Vec<Option<QuestPrefillConfig>> {
        let policies = self.policies.iter().flat_map(|name| match name {
            PrefillName::Dense => vec![None],
            PrefillName::Quest => {
                let quest = |&budget: &usize| QuestPrefillConfig::new().with_token_budget(budget);
                self.budgets.iter().map(quest).map(Some).collect()
            }
        });
        policies.collect()
    }
}

/// The operation's name in results, and the budget where there is one.
fn described(policy: &Option<QuestPrefillConfig>) -> (&'static str, Option<usize>) {
    match policy {
        None => ("prefill", None),
        Some(quest) => ("prefill-quest", Some(quest.token_budget)),
    }
}

/// As the library takes it.
fn config(policy: &Option<QuestPrefillConfig>) -> PrefillConfig {
    match policy {
        None => PrefillConfig::Dense,
        Some(quest) => PrefillConfig::Quest(quest.clone()),
    }
}

/// Measures what the options ask for, and prints each result as it comes.
///
/// # Errors
///
/// When an option cannot be served, the device fails, or a timed prompt gives wrong logits.
pub(crate) fn run(
    options: &PrefillOptions,
    target: &Target,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let begin = Instant::now();
    QuestConfig::new()
        .with_token_budget(options.cache_options.page_size)
        .validate_for(options.cache_options.page_size)?;
    let policies = options.policies();
    for policy in &policies {
        config(policy).validate_for(options.cache_options.page_size)?;
    }
    let time_limit = options.effort.time_limit()?;
    let limit = memory::limit(target, options.effort.memory_limit);
    let plan = ModelPlan::new(&options.model, target, limit)?;
    bandwidth::measure(target, &options.effort.stopwatch(), limit, rows)?;
    target.device().memory_cleanup();
    let loaded = plan.load(target)?;
    for &batch in &options.cache_options.batch {
        for &context in &options.contexts {
            for (&chunk, policy) in
                (options.chunks.iter()).flat_map(|chunk| policies.iter().map(move |p| (chunk, p)))
            {
                let config = loaded.model.config();
                let cache = config.cache(options.cache_options.page_size, batch, context);
                let cache = cache.with_kv_storage(options.kv_cache);
                let cache_bytes = cache.bytes(loaded.model.dtype());
                let needed = loaded.weight_bytes().saturating_add(cache_bytes);
                let (operation, budget) = described(policy);
                let mut record = Record {
                    page_size: Some(options.cache_options.page_size),
                    chunk: Some(chunk),
                    kv_cache: Some(options.kv_cache.name()),
                    budget,
                    ..loaded.record(Kind::Prefill, operation, batch, context)
                };
                let is_late = time_limit.is_some_and(|limit| begin.elapsed() >= limit);
                if is_late || needed > limit {
                    record.kind = Kind::Skipped;
                    record.reason = Some(match is_late {
                        true => format!(
                            "{} minutes are over",
                            options.effort.minutes.unwrap_or_default()
                        ),
                        false => format!(
                            "expected {needed} bytes of memory for weights and KV cache, found \
                             {limit}"
                        ),
                    });
                    rows.push(record)?;
                    continue;
                }
                eprintln!(
                    "{}: {operation}, batch {batch}, prompt {context}, chunk {chunk}",
                    loaded.name
                );
                rows.attempt(record.clone(), |rows| {
                    let mut cache = cache.init(target.device(), loaded.model.dtype())?;
                    let timing = time(options, &loaded, &mut cache, (context, chunk), policy)?;
                    record.launch = Some(Launch::Plain);
                    record.tokens_per_s = Some((batch * context) as f64 * 1e6 / timing.median_us);
                    record.timing = Some(timing);
                    record.memory_estimate = Some(needed);
                    record.memory_reserved = reserved(target);
                    rows.push(record)
                })?;
                target.device().memory_cleanup();
            }
        }
    }
    rows.finish()
}

fn time(
    options: &PrefillOptions,
    loaded: &LoadedModel,
    cache: &mut PagedKvCache,
    (context, chunk): (usize, usize),
    policy_config: &Option<QuestPrefillConfig>,
) -> Result<Timing, BenchError> {
    let policy = config(policy_config).init(options.cache_options.page_size)?;
    let batch = cache.batch();
    let (_, budget) = described(policy_config);
    let model = loaded.model.model();
    let vocab_size = model.vocab_size();
    let ids = (0..batch * context).map(|i| (i * 7919 % vocab_size) as u32);
    let ids = ids.collect::<Vec<_>>();
    let ids = ids.chunks(context).collect::<Vec<_>>();
    let mut prompt = |tokens: usize| -> Result<Vec<f32>, BenchError> {
        cache.reset();
        let prompts = ids.iter().map(|ids| &ids[..tokens]).collect::<Vec<_>>();
        let hidden = prefill(model, cache, &*policy, &prompts, chunk, None)?;
        // Reading the logits is what ends the work on every device.
        read::floats(model.logits(hidden))
    };
    // Kernels are compiled and tuned for the first chunks' shapes, and those past a budget.
    let tokens = budget.map_or(0, |budget| budget.saturating_add(chunk));
    prompt(context.min(tokens.saturating_add(2 * chunk)))?;
    let mut times = Vec::new();
    for _ in 0..options.prompts {
        let start = Instant::now();
        let logits = prompt(context)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        let min = logits.iter().copied().fold(f32::INFINITY, f32::min);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if logits.iter().any(|logit| !logit.is_finite()) || min == max {
            return Err(BenchError::Wrong {
                operation: "prefill".into(),
                expected: "logits that are numbers and differ".into(),
                found: format!("{min} to {max}"),
            });
        }
    }
    Ok(Timing::of(times))
}
