use std::path::PathBuf;

use clap::Args;

use super::{ShapeName, Weights};

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
}
