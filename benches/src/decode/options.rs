use clap::Args;
use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, PagedKvCacheConfig},
    digest::DigestKind,
};
use quest_burn_models::local::LocalModel;
use quest_burn_report::count;

use crate::{
    BenchError, Launch, attention::Effort, model::LoadedModel, model::ModelOptions, parse,
};

/// Options of `bench decode`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DecodeOptions {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Tokens that each sequence holds, as in 32K,128K
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["8K", "32K", "128K"])]
    pub contexts: Vec<usize>,
    /// Tokens that are attended to
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["2048"])]
    pub budgets: Vec<usize>,
    /// Sequences
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::sequences, default_values = ["1"])]
    pub batch: Vec<usize>,
    /// Tokens of a page: a power of two from 8 to 128
    #[arg(long, value_name = "N", default_value_t = LocalModel::PAGE_SIZE)]
    pub page_size: usize,
    /// Leading layers that attend to everything
    #[arg(long, value_name = "N", default_value_t = QuestConfig::new().dense_layers)]
    pub dense_layers: usize,
    /// Kind of the page digests: min-max, mean-var, mean-scalar or mean
    #[arg(long, value_name = "KIND", value_parser = parse::digest, default_value_t = DigestKind::MeanVar)]
    pub digest: DigestKind,
    /// Numbers that the digests are read in: full or int8
    #[arg(long = "digest-storage", alias = "digests", value_name = "FORM", value_parser = parse::digests, default_value_t = DigestStorage::Full)]
    pub digests: DigestStorage,
    /// How the work reaches the device
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Launch::Graph, Launch::Plain])]
    pub launch: Vec<Launch>,
    /// Steps that are timed, the median of which counts
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    pub steps: u16,
    #[command(flatten)]
    pub effort: Effort,
}

/// Steps before the timed ones: kernels are compiled and tuned in them.
pub(super) const WARM_UP: usize = 3;

impl DecodeOptions {
    /// The configuration of Quest.
    pub(crate) fn quest(&self, budget: usize) -> QuestConfig {
        QuestConfig::new()
            .with_token_budget(budget)
            .with_dense_layers(self.dense_layers)
    }

    pub(super) fn check(&self) -> Result<(), BenchError> {
        for &budget in &self.budgets {
            self.quest(budget).validate_for(self.page_size)?;
        }
        let multiple = |context: &&usize| !context.is_multiple_of(self.page_size);
        if let Some(context) = self.contexts.iter().find(multiple) {
            return Err(BenchError::Option {
                option: "--contexts",
                expected: format!("multiples of the page size, {}", self.page_size),
                found: context.to_string(),
            });
        }
        Ok(())
    }

    /// Tokens that a cache must have room for.
    pub(crate) fn capacity(&self, context: usize) -> usize {
        context + WARM_UP + usize::from(self.steps)
    }

    /// The KV cache.
    pub(crate) fn cache(
        &self,
        loaded: &LoadedModel,
        batch: usize,
        context: usize,
    ) -> PagedKvCacheConfig {
        let capacity = self.capacity(context);
        let cache = loaded.model.config().cache(self.page_size, batch, capacity);
        cache
            .with_digest(self.digest)
            .with_digest_storage(self.digests)
    }

    /// Bytes of the KV cache.
    pub(crate) fn cache_bytes(&self, loaded: &LoadedModel, batch: usize, context: usize) -> u64 {
        self.cache(loaded, batch, context)
            .bytes(loaded.model.dtype())
    }
}
