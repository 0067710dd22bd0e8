//! From the common options to a model with its cache.

use anyhow::{Context, bail};
use burn::tensor::DType;
use indicatif::BinaryBytes;
use quest_burn::{cache::PagedKvCache, policy::PagePolicy};
use quest_burn_models::{config::ModelConfig, model::CausalLm, weights};

use crate::{
    device::{self, SelectedDevice},
    failure::Failure,
    memory,
    options::{CommonOptions, RopeFrequencies, dtype_name, value_name},
    output::{Progress, Unit},
};

/// What is known before anything heavy happens.
pub struct Plan<'a> {
    pub options: &'a CommonOptions,
    pub config: ModelConfig,
    pub policy: Box<dyn PagePolicy>,
}

/// A model that can run.
pub struct Loaded {
    pub model: CausalLm,
    pub cache: PagedKvCache,
    pub device: SelectedDevice,
    pub dtype: DType,
}

impl<'a> Plan<'a> {
    pub fn new(options: &'a CommonOptions) -> anyhow::Result<Self> {
        let config = ModelConfig::from_dir(&options.model)?;
        Ok(Self {
            policy: options.policy.init(&config.rope)?,
            config,
            options,
        })
    }

    /// The longest context that is allowed: the one asked for, or the checkpoint's.
    pub fn max_context(&self) -> anyhow::Result<usize> {
        let most = self.config.max_positions;
        match self.options.context {
            Some(asked) if asked as usize > most => {
                bail!("context: the checkpoint is made for at most {most} tokens, found {asked}")
            }
            Some(asked) => Ok(asked as usize),
            None => Ok(most),
        }
    }

    /// The device, and the element type to compute in.
    pub fn device(&self) -> anyhow::Result<(SelectedDevice, DType)> {
        let device = device::select(self.options.device)?;
        let asked = self.options.dtype.map(|name| name.dtype());
        let dtype = device.dtype(asked, self.config.dtype)?;
        Ok((device, dtype))
    }

    /// The model's configuration for computing in `dtype`. Says on stderr what is not exact.
    fn config_for(&self, dtype: DType) -> ModelConfig {
        let config = self.config.clone();
        if self.options.rope_frequencies == RopeFrequencies::Exact {
            return config;
        }
        let config = config.widened(dtype);
        if let Some(rounded) = config.rope.frequency_dtype {
            eprintln!(
                "rotary frequencies: rounded to {} like the weights (`--rope-frequencies exact` \
                 for f32)",
                dtype_name(rounded)
            );
        }
        config
    }

    /// Loads the weights and allocates a cache: for the context asked for, or for `tokens`.
    pub fn load(&self, tokens: usize) -> Result<Loaded, Failure> {
        let (device, dtype) = self.device()?;
        let config = self.config_for(dtype);
        let mut progress = None;
        let model = weights::load(
            &self.options.model,
            &config,
            &device.device,
            dtype,
            &mut |load| {
                progress
                    .get_or_insert_with(|| Progress::new("loading", Unit::Bytes, load.total_bytes))
                    .set(load.bytes);
            },
        );
        drop(progress);
        let model = model.map_err(anyhow::Error::new)?;

        let tokens = self.options.context.map_or(tokens, |asked| asked as usize);
        let cache = self.config.cache(self.options.policy.page_size, 1, tokens);
        if device.name.is_cpu() {
            memory::check(cache.bytes(dtype), tokens)?;
        }
        eprintln!(
            "model: {} parameters in {} on {}; KV cache: {} for {tokens} tokens",
            self.config.n_parameters(),
            dtype_name(dtype),
            value_name(device.name),
            BinaryBytes(cache.bytes(dtype)),
        );
        Ok(Loaded {
            model,
            cache: cache.init(&device.device, dtype).context("KV cache")?,
            device,
            dtype,
        })
    }
}
