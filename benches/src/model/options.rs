use std::path::PathBuf;

use burn::tensor::DType;
use clap::{Args, ValueEnum};

use super::ShapeName;
use crate::BenchError;

/// Which model is timed.
#[derive(Args, Clone, Debug)]
pub struct ModelOptions {
    /// A well-known shape, with random weights: they do not matter to the speed
    #[arg(long, value_enum, default_value_t = ShapeName::Llama2_7b, conflicts_with = "model")]
    pub shape: ShapeName,
    /// Folder of a Hugging Face checkpoint
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Element type of weights and KV cache [default: f16 on GPUs, f32 on CPUs]
    #[arg(long, value_enum)]
    pub weights: Option<WeightType>,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightType {
    /// 32 bits
    F32,
    /// 16 bits, 5 of them exponent
    F16,
    /// 16 bits, 8 of them exponent
    Bf16,
    /// Not supported yet
    Int8,
    /// Not supported yet
    Int4,
}

impl WeightType {
    /// The element type.
    pub(super) fn dtype(self) -> Result<DType, BenchError> {
        Ok(match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::Int8 | Self::Int4 => {
                let name = self.to_possible_value();
                let name = name.map(|name| name.get_name().to_owned());
                return Err(BenchError::Option {
                    option: "--weights",
                    expected: "f32, f16 or bf16, the weights that models run with".into(),
                    found: name.unwrap_or_default(),
                });
            }
        })
    }
}
