use std::path::PathBuf;

use clap::Args;
use quest_burn::QuestConfig;
use quest_burn_models::local::LocalModel;
use quest_burn_report::count;

use super::{ShapeName, Skipping, Weights};

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
    /// projections, stored (as the checkpoint has them), int8 or int4, and the default element type for
    /// all else [default: stored, and f16 on GPUs, f32 on CPUs]
    #[arg(long, value_name = "FORM")]
    pub weights: Option<Weights>,
    /// Skips the input channels of projections that matter least to a decoded token: a share of them, by
    /// thresholds found on random tokens, or as `quest calibrate` wrote into FILE for the checkpoint
    #[arg(long, value_name = "SHARE|FILE")]
    pub activation_sparsity: Option<Skipping>,
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
