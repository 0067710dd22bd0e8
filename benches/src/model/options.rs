use std::path::PathBuf;

use burn::tensor::DType;
use clap::Args;
use quest_burn::QuestConfig;
use quest_burn_models::local::LocalModel;
use quest_burn_report::count;

use super::{ShapeName, Skipping, Weights};
use crate::{BenchError, parse};

/// Which model is timed.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelOptions {
    /// A well-known shape, with random weights: they do not matter to the speed
    #[arg(long, value_enum, default_value_t = ShapeName::Llama2_7b, conflicts_with = "model")]
    pub shape: ShapeName,
    /// Folder of a Hugging Face checkpoint, or a GGUF file
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Element type of weights and KV cache: f32, f16 or bf16; or the form of the weights of the layers'
    /// projections, stored (as the checkpoint has them), int8 or int4, and the element type of --dtype for
    /// all else [default: stored]
    #[arg(long, value_name = "FORM")]
    pub weights: Option<Weights>,
    /// Element type of the KV cache and of what goes from layer to layer, and of the weights that --weights
    /// says nothing else of: f32, f16 or bf16 [default: f16 on GPUs, f32 on CPUs]
    #[arg(long, value_name = "DTYPE", value_parser = parse::float_dtype)]
    pub dtype: Option<DType>,
    /// Skips the input channels of projections that matter least to a decoded token: a share of them, by
    /// thresholds found on random tokens, or as `quest calibrate` wrote into FILE for the checkpoint
    #[arg(long, value_name = "SHARE|FILE")]
    pub activation_sparsity: Option<Skipping>,
}

impl ModelOptions {
    /// The form of the projections' weights, the element type where one is asked for, and the option that does.
    pub(super) fn form(&self) -> Result<(Weights, &'static str), BenchError> {
        let weights = self.weights.unwrap_or_default();
        match (self.dtype, weights.dtype) {
            (Some(asked), Some(of_weights)) if asked != of_weights => Err(BenchError::Option {
                option: "--dtype",
                expected: format!("{}, as in --weights", of_weights.name()),
                found: asked.name().to_owned(),
            }),
            (Some(_), _) => {
                let dtype = self.dtype;
                Ok((Weights { dtype, ..weights }, "--dtype"))
            }
            (None, _) => Ok((weights, "--weights")),
        }
    }
}

/// What Quest attends to.
#[derive(Args, Clone, Debug)]
pub(crate) struct QuestOptions {
    /// Tokens that a decoded token attends to
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_values = ["2048"])]
    pub budgets: Vec<usize>,
    /// Leading layers that attend to everything
    #[arg(long, value_name = "N", default_value_t = QuestConfig::new().dense_layers)]
    pub dense_layers: usize,
}

impl QuestOptions {
    /// The configuration of Quest.
    pub(crate) fn config(&self, budget: usize) -> QuestConfig {
        QuestConfig::new()
            .with_token_budget(budget)
            .with_dense_layers(self.dense_layers)
    }
}

/// What the KV cache holds.
#[derive(Args, Clone, Debug)]
pub(crate) struct CacheOptions {
    /// Sequences
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::sequences, default_values = ["1"])]
    pub batch: Vec<usize>,
    /// Tokens of a page: a power of two from 8 to 128
    #[arg(long, value_name = "N", default_value_t = LocalModel::PAGE_SIZE)]
    pub page_size: usize,
}
