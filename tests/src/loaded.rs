//! A checkpoint loaded through the models crate, with the same methods as the naive model.

use std::{path::Path, sync::Arc};

use burn::tensor::{DType, Device};
use quest_burn::{
    QuestConfig,
    digest::DigestKind,
    inference::WeightFormat,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    config::ModelConfig,
    generation::{GenerationConfig, LikelihoodMode},
    local::LocalModel,
    session::Session,
    weights,
};

/// A model with the parameters of its checkpoint.
#[derive(Debug)]
pub struct Loaded(LocalModel);

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
        Self(LocalModel::new(config, model).with_digest(DigestKind::MinMax))
    }

    /// Loads a checkpoint for inference, its projections as they are stored, as the program does.
    ///
    /// # Panics
    ///
    /// When it cannot be loaded.
    pub fn stored(path: &Path, device: &Device, dtype: DType) -> Self {
        let model = LocalModel::open(path).map(|model| model.dtype(dtype));
        let model = model.and_then(|model| model.digest(DigestKind::MinMax).load(device));
        Self(model.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Loads a checkpoint into the form for inference, with the weights of its projections in `format`.
    ///
    /// # Panics
    ///
    /// When it cannot be loaded.
    pub fn for_inference(dir: &Path, device: &Device, dtype: DType, format: WeightFormat) -> Self {
        let config = ModelConfig::from_dir(dir).unwrap_or_else(|error| panic!("{error}"));
        let model = weights::load_for_inference(dir, &config, device, dtype, format, &mut |_| ())
            .unwrap_or_else(|error| panic!("{error}"));
        Self(LocalModel::new(config, model).with_digest(DigestKind::MinMax))
    }

    /// The model.
    pub fn model(&self) -> &LocalModel {
        &self.0
    }

    /// `-log p(ids[i + 1] | ids[..=i])` for every `i`, read densely in chunks of 128 tokens.
    pub fn dense_nlls(&self, ids: &[u32]) -> Vec<f64> {
        self.nlls(
            ids,
            16,
            Arc::new(DensePolicy),
            LikelihoodMode::Dense { chunk: 128 },
        )
    }

    /// NLL of `ids[prefill..]`, decoded one by one densely.
    pub fn dense_decode_nlls(&self, ids: &[u32], prefill: usize, page_size: usize) -> Vec<f64> {
        self.nlls(
            ids,
            page_size,
            Arc::new(DensePolicy),
            LikelihoodMode::Decode {
                prefill,
                chunk: 512,
            },
        )
    }

    /// NLL of `ids[prefill..]`, decoded one by one through Quest in pages of `page_size`.
    ///
    /// # Panics
    ///
    /// When the configuration is not valid.
    pub fn quest_nlls(
        &self,
        ids: &[u32],
        prefill: usize,
        quest: &QuestConfig,
        page_size: usize,
    ) -> Vec<f64> {
        let policy = quest.init().unwrap_or_else(|error| panic!("{error}"));
        self.decode_nlls(ids, prefill, page_size, Arc::new(policy))
    }

    /// NLL of `ids[prefill..]`, decoded one by one through any policy.
    pub fn decode_nlls(
        &self,
        ids: &[u32],
        prefill: usize,
        page_size: usize,
        policy: Arc<dyn PagePolicy>,
    ) -> Vec<f64> {
        self.nlls(
            ids,
            page_size,
            policy,
            LikelihoodMode::Decode {
                prefill,
                chunk: 512,
            },
        )
    }

    fn nlls(
        &self,
        ids: &[u32],
        page_size: usize,
        policy: Arc<dyn PagePolicy>,
        mode: LikelihoodMode,
    ) -> Vec<f64> {
        let cache = self.0.config().cache(page_size, 1, ids.len());
        let cache = cache.with_digest(self.0.digest());
        let nlls = Session::with_cache(&self.0, &cache).and_then(|mut session| {
            session.set_policy(policy);
            session.likelihoods(ids, mode, &mut |_| ())
        });
        let nlls = nlls.unwrap_or_else(|error| panic!("{error}"));
        nlls.into_iter().map(f64::from).collect()
    }

    /// The most likely continuation of a prompt, with full attention.
    ///
    /// # Panics
    ///
    /// When the generation fails.
    pub fn greedy(&self, prompt: &[u32], n: usize) -> Vec<u32> {
        let config = GenerationConfig::new()
            .with_max_new_tokens(n)
            .with_stop_ids(Some(Vec::new()))
            .with_prefill_chunk(50);
        let session = self.0.session_for(prompt.len() + n);
        session
            .and_then(|mut session| session.generate_ids(prompt, config)?.collect())
            .unwrap_or_else(|error| panic!("{error}"))
    }
}
