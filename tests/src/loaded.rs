//! A checkpoint loaded through the models crate, with the same methods as the naive model.

use std::path::Path;

use burn::tensor::{DType, Device};
use quest_burn::{
    QuestConfig,
    cache::PagedKvCache,
    digest::DigestKind,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    config::ModelConfig,
    generation::{GenerationConfig, Generator, LikelihoodMode, negative_log_likelihoods},
    model::CausalLm,
    weights,
};

/// A model, and what it was loaded for.
#[derive(Debug)]
pub struct Loaded {
    /// What `config.json` says.
    pub config: ModelConfig,
    /// The model.
    pub model: CausalLm,
    device: Device,
    dtype: DType,
}

impl Loaded {
    /// Loads a checkpoint, cast to `dtype`.
    ///
    /// # Panics
    ///
    /// When it cannot be loaded.
    pub fn new(dir: &Path, device: &Device, dtype: DType) -> Self {
        let config = ModelConfig::from_dir(dir).unwrap_or_else(|error| panic!("{error}"));
        let model = weights::load(dir, &config, device, dtype, &mut |_| ())
            .unwrap_or_else(|error| panic!("{error}"));
        Self {
            config,
            model,
            device: device.clone(),
            dtype,
        }
    }

    /// An empty cache for one sequence, with the paper's digests.
    ///
    /// # Panics
    ///
    /// When the page size is not valid.
    pub fn cache(&self, page_size: usize, tokens: usize) -> PagedKvCache {
        let config = self.config.cache(page_size, 1, tokens);
        config
            .with_digest(DigestKind::MinMax)
            .init(&self.device, self.dtype)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// `-log p(ids[i + 1] | ids[..=i])` for every `i`, read densely in chunks of 128 tokens.
    pub fn dense_nlls(&self, ids: &[u32]) -> Vec<f64> {
        self.nlls(ids, 16, &DensePolicy, LikelihoodMode::Dense { chunk: 128 })
    }

    /// NLL of `ids[prefill..]`, decoded one by one densely.
    pub fn dense_decode_nlls(&self, ids: &[u32], prefill: usize, page_size: usize) -> Vec<f64> {
        self.nlls(
            ids,
            page_size,
            &DensePolicy,
            LikelihoodMode::Decode { prefill },
        )
    }

    /// NLL of `ids[prefill..]`, decoded one by one through Quest.
    ///
    /// # Panics
    ///
    /// When the configuration is not valid.
    pub fn quest_nlls(&self, ids: &[u32], prefill: usize, quest: &QuestConfig) -> Vec<f64> {
        let policy = quest.init().unwrap_or_else(|error| panic!("{error}"));
        self.nlls(
            ids,
            quest.page_size,
            &policy,
            LikelihoodMode::Decode { prefill },
        )
    }

    fn nlls(
        &self,
        ids: &[u32],
        page_size: usize,
        policy: &dyn PagePolicy,
        mode: LikelihoodMode,
    ) -> Vec<f64> {
        let mut cache = self.cache(page_size, ids.len());
        let nlls =
            negative_log_likelihoods(&self.model, &mut cache, policy, ids, mode, &mut |_| ());
        let nlls = nlls.unwrap_or_else(|error| panic!("{error}"));
        nlls.into_iter().map(f64::from).collect()
    }

    /// The most likely continuation of a prompt, with full attention.
    ///
    /// # Panics
    ///
    /// When the generation fails.
    pub fn greedy(&self, prompt: &[u32], n: usize) -> Vec<u32> {
        let mut cache = self.cache(16, prompt.len() + n);
        let config = GenerationConfig::new()
            .with_max_new_tokens(n)
            .with_prefill_chunk(50);
        Generator::new(&self.model, &mut cache, &DensePolicy, prompt, config)
            .and_then(Iterator::collect)
            .unwrap_or_else(|error| panic!("{error}"))
    }
}
