//! Many conversations at once, through the engine: what each client sees of its tokens.
//!
//! Conversations begin with prompts of their own, which stay in the cache: dense attention and Quest go on
//! from the same pages. Times are those of clients, a thread each, from the host's clock.

mod clients;

use clap::Args;
use quest_burn::QuestConfig;
use quest_burn_engine::{Engine, EngineConfig, Policy};
use quest_burn_models::local::LocalModel;
use quest_burn_report::count;

use self::clients::Clients;
use crate::{
    BenchError, Launch, Rows, Target,
    attention::Effort,
    memory,
    model::{ModelOptions, ModelPlan},
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
        // What they hold, their answers under each policy, and a prompt that comes beside an answer.
        let of_each = self.context + 4 * usize::from(self.new_tokens) + 64;
        let beside = self.context + 64 + 2 * self.most_beside();
        EngineConfig::new(conversations * of_each + beside)
            .with_max_sequences(conversations + 1)
            .with_step_tokens(self.step_tokens)
    }

    /// Tokens of an answer that lasts longer than a prompt takes.
    fn most_beside(&self) -> usize {
        4 * self.context.div_ceil(self.step_tokens) + 64
    }
}
