//! Answers of a whole model as they are generated: dense, through Quest, and lossless, where Quest drafts
//! and dense attention verifies.
//!
//! How many drafts are taken depends on the model and the text. With random weights the share says nothing
//! about a real model; the times of its passes do.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use quest_burn::policy::{DensePolicy, PagePolicy};
use quest_burn_models::{
    generation::GenerationConfig, local::LocalModel, session::Session, speculative::LosslessConfig,
};
use quest_burn_report::count;

use crate::{
    BenchError, Record, Rows, Target, Timing,
    attention::Effort,
    bandwidth, memory,
    model::{LoadedModel, ModelOptions, ModelPlan, QuestOptions},
    record::Kind,
};

/// Options of `bench lossless`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LosslessOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// Tokens of the prompt, as in 32K,128K
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["32K", "128K"])]
    contexts: Vec<usize>,
    #[command(flatten)]
    quest: QuestOptions,
    /// Tokens that are drafted before they are verified
    #[arg(long, value_name = "K,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["3", "7"])]
    draft_tokens: Vec<usize>,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(2..))]
    new_tokens: u16,
    /// A text whose tokens are the prompt, over and over; needs a checkpoint with a tokenizer [default:
    /// ids without a meaning]
    #[arg(long, value_name = "FILE", requires = "model")]
    text: Option<PathBuf>,
    #[command(flatten)]
    effort: Effort,
}

/// Tokens of a prompt that go through the model at once.
const CHUNK: usize = 2048;
/// Tokens that are generated before the timed ones: kernels are compiled and steps recorded.
const WARM_UP: usize = 12;

/// Measures what the options ask for, and prints each result as it comes.
///
/// # Errors
///
/// When an option cannot be served or the device fails.
pub(crate) fn run(
    options: &LosslessOptions,
    target: &Target,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    for &budget in &options.quest.budgets {
        let quest = options.quest.config(budget);
        quest.validate_for(LocalModel::PAGE_SIZE)?;
    }
    for &draft_tokens in &options.draft_tokens {
        LosslessConfig::new()
            .with_draft_tokens(draft_tokens)
            .validate()?;
    }
    let limit = memory::limit(target, options.effort.memory_limit);
    let plan = ModelPlan::new(&options.model, target, limit)?;
    bandwidth::measure(target, &options.effort.stopwatch(), limit, rows)?;
    target.device().memory_cleanup();
    let loaded = plan.load(target)?;
    for &context in &options.contexts {
        let failed = loaded.record(Kind::Failed, "all", 1, context);
        rows.attempt(failed, |rows| measure(options, &loaded, context, rows))?;
        target.device().memory_cleanup();
    }
    rows.finish()
}

impl LosslessOptions {
    fn prompt(&self, loaded: &LoadedModel, length: usize) -> Result<Vec<u32>, BenchError> {
        let Some(path) = &self.text else {
            let vocab_size = loaded.model.config().vocab_size;
            return Ok((0..length)
                .map(|i| (i * 7919 % vocab_size) as u32)
                .collect());
        };
        let wrong = |expected: &str, found: String| BenchError::Option {
            option: "--text",
            expected: expected.to_owned(),
            found,
        };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| wrong("a file of text", error.to_string()))?;
        let tokenizer = loaded.model.tokenizer();
        let tokenizer = tokenizer
            .ok_or_else(|| wrong("a model with a tokenizer", "one of token ids".into()))?;
        let ids = tokenizer
            .encode(&text)
            .map_err(|error| wrong("text that can be encoded", error.to_string()))?;
        if ids.is_empty() {
            return Err(wrong("a text", "an empty one".into()));
        }
        Ok(ids.iter().copied().cycle().take(length).collect())
    }
}

/// A policy that answers, by itself or as a draft.
struct Contender {
    operation: &'static str,
    policy: Arc<dyn PagePolicy>,
    budget: Option<usize>,
    draft_tokens: Option<usize>,
}

impl Contender {
    fn all(options: &LosslessOptions) -> Result<Vec<Self>, BenchError> {
        let mut all = vec![Self {
            operation: "dense",
            policy: Arc::new(DensePolicy),
            budget: None,
            draft_tokens: None,
        }];
        for &budget in &options.quest.budgets {
            let policy: Arc<dyn PagePolicy> = Arc::new(options.quest.config(budget).init()?);
            let drafts = options.draft_tokens.iter().copied().map(Some);
            all.extend([None].into_iter().chain(drafts).map(|draft_tokens| Self {
                operation: match draft_tokens {
                    None => "quest",
                    Some(_) => "lossless",
                },
                policy: policy.clone(),
                budget: Some(budget),
                draft_tokens,
            }));
        }
        Ok(all)
    }
}

fn measure(
    options: &LosslessOptions,
    loaded: &LoadedModel,
    context: usize,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let new_tokens = usize::from(options.new_tokens);
    eprintln!("{}: prompt of {context}", loaded.name);
    let prompt = options.prompt(loaded, context)?;
    let mut session = loaded
        .model
        .session_for(context + new_tokens.max(WARM_UP))?;
    session.prefill(&prompt, CHUNK, &mut |_| ())?;
    let mut dense = Vec::new();
    for contender in Contender::all(options)? {
        session.set_policy(contender.policy.clone());
        let lossless = contender.draft_tokens;
        let lossless = lossless.map(|k| LosslessConfig::new().with_draft_tokens(k));
        session.set_lossless(lossless)?;
        let mut record = Record {
            budget: contender.budget,
            dense_layers: contender.budget.map(|_| options.quest.dense_layers),
            draft_tokens: contender.draft_tokens,
            ..loaded.record(Kind::Decode, contender.operation, 1, context)
        };
        answer(&mut session, &prompt, WARM_UP, &mut record)?;
        let ids = answer(&mut session, &prompt, new_tokens, &mut record)?;
        if contender.operation == "dense" {
            dense = ids;
        } else {
            let equal = dense.iter().zip(&ids).take_while(|(a, b)| a == b);
            record.equal_tokens = Some(equal.count());
        }
        rows.push(record)?;
    }
    Ok(())
}

/// Answers the prompt, and puts times into the record.
fn answer(
    session: &mut Session,
    prompt: &[u32],
    new_tokens: usize,
    record: &mut Record,
) -> Result<Vec<u32>, BenchError> {
    let (last, before) = prompt.split_last().expect("contexts are not empty");
    session.truncate(before.len())?;
    let config = GenerationConfig::new()
        .with_max_new_tokens(new_tokens)
        .with_stop_ids(Some(Vec::new()));
    let mut stream = session.generate_ids(&[*last], config)?;
    let ids = stream.by_ref().collect::<Result<Vec<_>, _>>()?;
    let timings = stream.timings();
    let us = timings.decode.as_secs_f64() * 1e6 / timings.decode_tokens as f64;
    record.timing = Some(Timing::of(vec![us]));
    record.tokens_per_s = timings.decode_tokens_per_s();
    if let Some(drafts) = stream.drafts() {
        record.draft_acceptance = drafts.acceptance();
        record.tokens_per_pass = drafts.tokens_per_pass();
    }
    Ok(ids)
}
