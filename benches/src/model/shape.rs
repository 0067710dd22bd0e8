use clap::ValueEnum;
use quest_burn::attention::RopeConfig;
use quest_burn_models::config::{Architecture, Blocks, ModelConfig};

/// A model's sizes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShapeName {
    /// 32 layers, 32 heads of 128 channels
    #[value(name = "llama2-7b")]
    Llama2_7b,
    /// 32 layers, 32 query and 8 KV heads of 128 channels
    #[value(name = "llama3-8b")]
    Llama3_8b,
    /// 16 layers, 32 query and 8 KV heads of 64 channels, tied embeddings
    #[value(name = "llama3.2-1b")]
    Llama3_2_1b,
    /// 4 layers, 4 query and 2 KV heads of 16 channels: to try the benchmark itself
    Tiny,
}

impl ShapeName {
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Sizes that matter to the speed are the model's. Positions go as far as any benchmark does.
    pub(crate) fn config(self) -> ModelConfig {
        let base = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 32_000,
            d_model: 4096,
            d_ff: 11_008,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 32,
            head_dim: 128,
            max_positions: 1 << 21,
            rms_norm_epsilon: 1e-5,
            rope: RopeConfig::new(),
            blocks: Blocks::default(),
            tie_word_embeddings: false,
            quantization: None,
            dtype: None,
            bos_token_id: None,
            stop_token_ids: Vec::new(),
        };
        match self {
            Self::Llama2_7b => base,
            Self::Llama3_8b => ModelConfig {
                vocab_size: 128_256,
                d_ff: 14_336,
                n_kv_heads: 8,
                rope: RopeConfig::new().with_theta(500_000.0),
                ..base
            },
            Self::Llama3_2_1b => ModelConfig {
                vocab_size: 128_256,
                d_model: 2048,
                d_ff: 8192,
                n_layers: 16,
                n_kv_heads: 8,
                head_dim: 64,
                rope: RopeConfig::new().with_theta(500_000.0),
                tie_word_embeddings: true,
                ..base
            },
            Self::Tiny => ModelConfig {
                vocab_size: 256,
                d_model: 64,
                d_ff: 128,
                n_layers: 4,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim: 16,
                ..base
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_parameters_of_the_models() {
        // As published: 6.74, 8.03 and 1.24 billion.
        for (shape, parameters) in [
            (ShapeName::Llama2_7b, 6_738_415_616),
            (ShapeName::Llama3_8b, 8_030_261_248),
            (ShapeName::Llama3_2_1b, 1_235_814_400),
        ] {
            assert_eq!(shape.config().n_parameters(), parameters, "{shape:?}");
        }
    }
}
