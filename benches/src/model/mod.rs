//! The models whose steps are timed: well-known shapes with random weights, or a checkpoint.

mod options;
mod random;
mod shape;

pub use options::ModelOptions;
pub(crate) use shape::ShapeName;

use std::path::Path;

use burn::tensor::DType;
use quest_burn_models::{config::ModelConfig, inference::InferenceLm, weights};

use crate::{BenchError, Record, Target, record::Kind, target::dtype_name};

/// A model on a device.
pub struct LoadedModel {
    pub name: String,
    pub config: ModelConfig,
    pub model: InferenceLm,
    pub dtype: DType,
}

/// A model that is known to fit, before anything heavy happens.
pub struct ModelPlan<'a> {
    options: &'a ModelOptions,
    name: String,
    config: ModelConfig,
    dtype: DType,
}

impl<'a> ModelPlan<'a> {
    /// Refuses a model that cannot be had, and weights beyond the memory.
    pub fn new(options: &'a ModelOptions, target: &Target, limit: u64) -> Result<Self, BenchError> {
        let dtype = target.dtype("--weights", options.weights)?;
        let (name, config) = match &options.model {
            Some(dir) => (folder_name(dir), ModelConfig::from_dir(dir)?),
            None => (options.shape.name(), options.shape.config()),
        };
        let weight_bytes = config.n_parameters() * dtype.size() as u64;
        if weight_bytes > limit {
            return Err(BenchError::Option {
                option: "--memory-limit",
                expected: format!("room for the weights, {weight_bytes} bytes"),
                found: limit.to_string(),
            });
        }
        Ok(Self {
            options,
            name,
            config,
            dtype,
        })
    }

    /// Loads the checkpoint asked for, or makes random weights on the device.
    pub fn load(self, target: &Target) -> Result<LoadedModel, BenchError> {
        let Self {
            options,
            name,
            config,
            dtype,
        } = self;
        eprintln!(
            "{name}: {} parameters in {}",
            config.n_parameters(),
            dtype_name(dtype)
        );
        let device = target.device();
        let model = match &options.model {
            Some(dir) => {
                let config = config.clone().widened(dtype);
                weights::load(dir, &config, device, dtype, &mut |_| ())?
            }
            None => random::model(&config, device, dtype)?,
        };
        Ok(LoadedModel {
            name,
            config,
            model: model.into(),
            dtype,
        })
    }
}

impl LoadedModel {
    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.config.n_parameters() * self.dtype.size() as u64
    }

    /// A result's description, without the result.
    pub fn record(&self, kind: Kind, operation: &str, batch: usize, context: usize) -> Record {
        Record {
            kind,
            operation: operation.into(),
            model: Some(self.name.clone()),
            dtype: Some(dtype_name(self.dtype)),
            weights: Some(dtype_name(self.dtype)),
            batch: Some(batch),
            n_heads: Some(self.config.n_heads),
            n_kv_heads: Some(self.config.n_kv_heads),
            head_dim: Some(self.config.head_dim),
            context: Some(context),
            ..Record::default()
        }
    }
}

fn folder_name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    name.to_string_lossy().into_owned()
}
