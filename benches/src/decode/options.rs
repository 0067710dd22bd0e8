use clap::Args;
use quest_burn::{
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
    policy::{PolicyConfig, PolicyKind},
};
use quest_burn_report::count;

use crate::{
    BenchError, Launch,
    attention::Effort,
    model::{CacheOptions, LoadedModel, ModelOptions, QuestOptions},
    parse,
};

/// Options of `bench decode`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DecodeOptions {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Tokens that each sequence holds, as in 32K,128K
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["8K", "32K", "128K"])]
    pub contexts: Vec<usize>,
    /// Policies beside dense attention, of those that are recorded: quest or reuse, with their options; of one whose
    /// choices serve several steps a round is whole choices long
    #[arg(long, value_name = "P,..", value_parser = PolicyKind::parse_list, default_value = "quest")]
    pub policies: PolicyList,
    #[command(flatten)]
    pub quest: QuestOptions,
    #[command(flatten)]
    pub cache_options: CacheOptions,
    /// What a page's digest keeps of its keys
    #[arg(long, value_name = "KIND", value_parser = parse::digest_kinds(), default_value_t = DigestKind::default())]
    pub digest: DigestKind,
    /// Numbers that the digests are read in
    #[arg(long = "digest-storage", alias = "digests", value_name = "FORM", value_parser = parse::digest_storages(), default_value_t = DigestStorage::Full)]
    pub digests: DigestStorage,
    /// Numbers that keys and values are kept in
    #[arg(long, value_name = "FORM", value_parser = parse::kv_storages(), default_value_t = KvStorage::Full)]
    pub kv_cache: KvStorage,
    /// How the work reaches the device
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Launch::Graph, Launch::Plain])]
    pub launch: Vec<Launch>,
    /// Timed steps; their median is reported
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    pub steps: u16,
    #[command(flatten)]
    pub effort: Effort,
}

/// Several policies; a name that clap does not take for a list of values.
pub(crate) type PolicyList = Vec<PolicyKind>;

/// Steps before the timed ones: kernels are compiled and tuned in them.
pub(super) const WARM_UP: usize = 3;

impl DecodeOptions {
    pub(super) fn check(&self) -> Result<(), BenchError> {
        let page_size = self.cache_options.page_size;
        for &budget in &self.quest.budgets {
            self.quest.config(budget).validate_for(page_size)?;
            for &kind in &self.policies {
                self.check_policy(kind, budget)?;
            }
        }
        let multiple = |context: &&usize| !context.is_multiple_of(page_size);
        if let Some(context) = self.contexts.iter().find(multiple) {
            return Err(BenchError::Option {
                option: "--contexts",
                expected: format!("multiples of the page size, {page_size}"),
                found: context.to_string(),
            });
        }
        Ok(())
    }

    /// Refuses what keeps more from step to step than a recording may: the last step is computed once more, and
    /// has to be the same.
    fn check_policy(&self, kind: PolicyKind, budget: usize) -> Result<(), BenchError> {
        let page_size = self.cache_options.page_size;
        let refused = |expected: String| BenchError::Option {
            option: "--policies",
            expected,
            found: kind.to_string(),
        };
        let recorded = |kind: PolicyKind| {
            let policy = self.policy(kind, budget).init(page_size).ok()?;
            (kind != PolicyKind::Dense && policy.is_capturable()).then_some(policy)
        };
        let Some(policy) = recorded(kind) else {
            let names = PolicyKind::ALL
                .iter()
                .filter(|&&kind| recorded(kind).is_some());
            let names = names
                .map(|kind| kind.name())
                .collect::<Vec<_>>()
                .join(" or ");
            return Err(refused(format!("{names}, beside dense attention")));
        };
        match policy.steps_per_choice() > page_size {
            true => Err(refused(format!(
                "choices that serve a page at most, {page_size} tokens"
            ))),
            false => Ok(()),
        }
    }

    /// A policy with a budget.
    pub(super) fn policy(&self, kind: PolicyKind, budget: usize) -> PolicyConfig {
        PolicyConfig::new(kind).with_quest(self.quest.config(budget))
    }

    /// Tokens that a cache must have room for.
    pub(crate) fn capacity(&self, context: usize) -> usize {
        // To whole choices, and to the next one: they serve a page at most.
        let choices = 2 * self.cache_options.page_size;
        context + WARM_UP + usize::from(self.steps) + choices
    }

    /// The KV cache.
    pub(crate) fn cache(
        &self,
        loaded: &LoadedModel,
        batch: usize,
        context: usize,
    ) -> PagedKvCacheConfig {
        let capacity = self.capacity(context);
        let config = loaded.model.config();
        let cache = config.cache(self.cache_options.page_size, batch, capacity);
        cache
            .with_digest(self.digest)
            .with_digest_storage(self.digests)
            .with_kv_storage(self.kv_cache)
    }

    /// Bytes of the KV cache.
    pub(crate) fn cache_bytes(&self, loaded: &LoadedModel, batch: usize, context: usize) -> u64 {
        self.cache(loaded, batch, context)
            .bytes(loaded.model.dtype())
    }
}
