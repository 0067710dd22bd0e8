//! From the common options to a model with its cache.

use anyhow::{Context, bail};
use burn::tensor::DType;
use indicatif::BinaryBytes;
use quest_burn::{
    cache::{PagedKvCache, PagedKvCacheConfig},
    inference::WeightFormat,
    policy::PagePolicy,
};
use quest_burn_models::{
    config::ModelConfig, generation::GenerateError, inference::InferenceLm, weights,
};

use crate::{
    device::{self, SelectedDevice},
    failure::Failure,
    folder::ModelFolder,
    memory::{self, Demand, Form, Work},
    options::{CommonOptions, ModelOptions, SelectionOptions, dtype_name, value_name},
    output::{Progress, Unit},
};

/// A model, before anything heavy happens.
pub struct ModelPlan<'a> {
    pub options: &'a ModelOptions,
    pub folder: ModelFolder,
    pub config: ModelConfig,
}

/// A model that can run.
pub struct LoadedModel {
    pub model: InferenceLm,
    pub config: ModelConfig,
    pub device: SelectedDevice,
    pub dtype: DType,
    pub weights: WeightFormat,
}

impl<'a> ModelPlan<'a> {
    pub fn new(options: &'a ModelOptions) -> anyhow::Result<Self> {
        if options.prefill_chunk == 0 {
            bail!(GenerateError::Chunk);
        }
        let folder = ModelFolder::open(options.folder.as_deref())?;
        Ok(Self {
            config: ModelConfig::from_dir(folder.path())?,
            folder,
            options,
        })
    }

    /// Refuses a cache that cannot be made, now rather than once the weights are there.
    pub fn check_cache(&self, selection: &SelectionOptions) -> anyhow::Result<()> {
        let cache = self.config.cache(selection.page_size, 1, 1);
        let cache = cache.with_digests(selection.digests);
        cache.validate().context("KV cache")
    }

    /// The device, and the element type to compute in.
    pub fn device(&self) -> anyhow::Result<(SelectedDevice, DType)> {
        let device = device::select(self.options.device)?;
        let asked = self.options.dtype.map(|name| name.dtype());
        let dtype = device.dtype(asked, self.config.dtype)?;
        Ok((device, dtype))
    }

    /// Loads the weights, once it is known that the device has memory for them, for a cache of
    /// `tokens` tokens and for the work on them.
    pub fn load(
        &self,
        selection: &SelectionOptions,
        tokens: usize,
        work: Work,
    ) -> Result<LoadedModel, Failure> {
        let (device, dtype) = self.device()?;
        let demand = Demand {
            config: &self.config,
            form: Form {
                dtype,
                weights: self.options.weights,
            },
            page_size: selection.page_size,
            digests: selection.digests,
            tokens,
            work,
        };
        memory::check(&demand, &device)?;
        let mut progress = None;
        let model = weights::load_for_inference(
            self.folder.path(),
            &self.config,
            &device.device,
            dtype,
            self.options.weights,
            &mut |load| {
                progress
                    .get_or_insert_with(|| Progress::new("loading", Unit::Bytes, load.total_bytes))
                    .set(load.bytes);
            },
        );
        drop(progress);
        Ok(LoadedModel {
            model: model.map_err(anyhow::Error::new)?,
            config: self.config.clone(),
            device,
            dtype,
            weights: self.options.weights,
        })
    }
}

impl LoadedModel {
    /// The size of a cache for `tokens` tokens. Says on stderr what the model and the cache take.
    pub fn cache(&self, selection: &SelectionOptions, tokens: usize) -> PagedKvCacheConfig {
        let cache = self.config.cache(selection.page_size, 1, tokens);
        let cache = cache.with_digests(selection.digests);
        eprintln!(
            "model: {} parameters in {}{} on {}; KV cache: {} for {tokens} tokens",
            self.config.n_parameters(),
            dtype_name(self.dtype),
            match self.config.weights_name(self.weights) {
                "full" => String::new(),
                format => format!(", projections in {format},"),
            },
            value_name(self.device.name),
            BinaryBytes(cache.bytes(self.dtype)),
        );
        cache
    }
}

/// What is known before anything heavy happens.
pub struct Plan<'a> {
    pub options: &'a CommonOptions,
    pub model: ModelPlan<'a>,
}

/// A model that can run, with its cache and policy.
pub struct Loaded {
    pub model: InferenceLm,
    pub cache: PagedKvCache,
    pub policy: Box<dyn PagePolicy>,
    pub device: SelectedDevice,
    pub dtype: DType,
    pub weights: WeightFormat,
}

impl<'a> Plan<'a> {
    pub fn new(options: &'a CommonOptions) -> anyhow::Result<Self> {
        let model = ModelPlan::new(&options.model)?;
        // Refused now rather than once the weights are there.
        options.policy.init(&model.config.rope)?;
        model.check_cache(&options.policy.selection)?;
        Ok(Self { options, model })
    }

    /// The longest context that is allowed: the one asked for, or the checkpoint's.
    pub fn max_context(&self) -> anyhow::Result<usize> {
        let most = self.model.config.max_positions;
        match self.options.context {
            Some(asked) if asked > most => {
                bail!("context: the checkpoint is made for at most {most} tokens, found {asked}")
            }
            Some(asked) => Ok(asked),
            None => Ok(most),
        }
    }

    /// Loads the weights and allocates a cache: for the context asked for, or for `tokens`.
    pub fn load(&self, tokens: usize, work: Work) -> Result<Loaded, Failure> {
        let tokens = self.options.context.unwrap_or(tokens);
        let selection = &self.options.policy.selection;
        let loaded = self.model.load(selection, tokens, work)?;
        let cache = loaded.cache(selection, tokens);
        let cache = cache.init(&loaded.device.device, loaded.dtype);
        Ok(Loaded {
            cache: cache.context("KV cache")?,
            // StreamingLLM rotates keys as the model does.
            policy: self.options.policy.init(&loaded.config.rope)?,
            model: loaded.model,
            device: loaded.device,
            dtype: loaded.dtype,
            weights: loaded.weights,
        })
    }
}
