//! The models whose steps are timed: well-known shapes with random weights, or a checkpoint.

mod options;
mod random;
mod shape;
mod skipping;
mod weights;

pub(crate) use options::{CacheOptions, ModelOptions, QuestOptions};
pub(crate) use shape::ShapeName;
pub(crate) use skipping::Skipping;
pub(crate) use weights::Weights;

use std::{path::Path, sync::Arc};

use burn::tensor::{DType, Device};
use quest_burn::inference::WeightFormat;
use quest_burn_models::{
    ModelError,
    activation_sparsity::ActivationSparsity,
    config::ModelConfig,
    local::LocalModel,
    weights::{KeptForm, KeptWeights},
};

use crate::{BenchError, Record, Target, record::Kind};

/// A model on a device, with its name in results.
pub(crate) struct LoadedModel {
    pub name: String,
    pub model: LocalModel,
    weight_bytes: u64,
    /// Of these, what a decoded token reads.
    read_bytes: u64,
}

/// A model that is known to fit, before anything heavy happens.
pub(crate) struct ModelPlan<'a> {
    options: &'a ModelOptions,
    name: String,
    config: ModelConfig,
    dtype: DType,
    format: WeightFormat,
    kept: Option<KeptWeights>,
    weight_bytes: u64,
}

impl<'a> ModelPlan<'a> {
    /// Refuses a model that cannot be had, and weights beyond the memory.
    pub(crate) fn new(
        options: &'a ModelOptions,
        target: &Target,
        limit: u64,
    ) -> Result<Self, BenchError> {
        let (Weights { dtype, format }, option) = options.form()?;
        let dtype = target.dtype(option, dtype)?;
        let mut kept = None;
        let (name, config) = match &options.model {
            Some(path) => {
                let model = LocalModel::open(path)?.weights(format);
                if options.activation_sparsity.is_none() {
                    kept = model.kept_weights(target.device())?;
                }
                (file_name(path), model.config().clone())
            }
            None => {
                if let Some(skipping) = &options.activation_sparsity {
                    skipping.share()?;
                }
                (options.shape.name(), options.shape.config())
            }
        };
        let weight_bytes = config.weight_bytes(dtype, format)?;
        // Fewer where weights stay as they are stored.
        let weight_bytes = kept.map_or(weight_bytes, |kept| kept.weight_bytes(weight_bytes, dtype));
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
            format,
            kept,
            weight_bytes,
        })
    }

    /// Loads the checkpoint asked for, or makes random weights on the device.
    pub(crate) fn load(self, target: &Target) -> Result<LoadedModel, BenchError> {
        let Self {
            options,
            name,
            config,
            dtype,
            format,
            kept,
            mut weight_bytes,
        } = self;
        let form = match kept.map(|kept| kept.form) {
            Some(form) if form != KeptForm::Half(dtype) => form.name(),
            _ => config.weights_name(format),
        };
        eprintln!(
            "{name}: {} parameters in {}",
            config.n_parameters(),
            weights_name(form, dtype)
        );
        let device = target.device();
        let model = match &options.model {
            Some(path) => {
                let mut model = LocalModel::open(path)?.dtype(dtype).weights(format);
                if let Some(skipping) = &options.activation_sparsity {
                    let sparsity = skipping.of_checkpoint(&model, device)?;
                    model = model.activation_sparsity(sparsity);
                }
                let model = model.load(device)?;
                weight_bytes = model.weight_bytes()?;
                model
            }
            None => random_model(&options.activation_sparsity, config, device, dtype, format)?,
        };
        let size = match format {
            WeightFormat::Int8 => 1,
            _ => dtype.size() as i64,
        };
        let sparsity = model.activation_sparsity();
        let unread = sparsity.map_or(0, ActivationSparsity::unread_weights);
        Ok(LoadedModel {
            name,
            model,
            weight_bytes,
            read_bytes: weight_bytes.saturating_add_signed(-unread * size),
        })
    }
}

/// A model with random weights. What skips channels is made of whole ones.
fn random_model(
    skipping: &Option<Skipping>,
    config: ModelConfig,
    device: &Device,
    dtype: DType,
    format: WeightFormat,
) -> Result<LocalModel, BenchError> {
    let Some(skipping) = skipping else {
        let model = random::model(&config, device, dtype, format)?;
        return Ok(LocalModel::new(config, model).with_weights(format));
    };
    let model = random::model(&config, device, dtype, WeightFormat::Full)?;
    let sparsity = skipping.of_random(model.clone(), &config)?;
    let applied = sparsity.apply(model, &config, format);
    let model = LocalModel::new(config, applied.map_err(ModelError::from)?);
    Ok(model
        .with_weights(format)
        .with_activation_sparsity(Some(Arc::new(sparsity))))
}

impl LoadedModel {
    /// Bytes of all weights, with their scales and zero points.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Bytes of the weights that a decoded token reads, but for embeddings of other tokens.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    fn weights_name(&self) -> String {
        let name = weights_name(self.model.weights_name(), self.model.dtype());
        match self.model.activation_sparsity() {
            None => name,
            Some(sparsity) => {
                let percent = 100.0 * sparsity.sparsity();
                format!("{name}, {percent:.0} % skipped")
            }
        }
    }

    /// A result's description, without the result.
    pub(crate) fn record(
        &self,
        kind: Kind,
        operation: &str,
        batch: usize,
        context: usize,
    ) -> Record {
        let (config, dtype) = (self.model.config(), self.model.dtype());
        Record {
            kind,
            operation: operation.into(),
            model: Some(self.name.clone()),
            dtype: Some(dtype.name().to_owned()),
            weights: Some(self.weights_name()),
            batch: Some(batch),
            n_heads: Some(config.n_heads),
            n_kv_heads: Some(config.n_kv_heads),
            head_dim: Some(config.head_dim),
            context: Some(context),
            ..Record::default()
        }
    }
}

/// As it is written on the command line, or the form that a checkpoint has.
fn weights_name(form: &str, dtype: DType) -> String {
    match form {
        "full" => dtype.name().to_owned(),
        name => name.to_owned(),
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
