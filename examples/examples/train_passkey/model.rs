//! The model to be trained, with random weights.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};
use quest_burn::attention::RopeConfig;
use quest_burn_models::{
    config::{Architecture, Blocks, ModelConfig},
    model::CausalLm,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The model that is shipped: 4.7 million parameters.
pub(crate) fn standard_model(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size,
        d_model: 256,
        d_ff: 704,
        n_layers: 6,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        max_positions: 32_768,
        rms_norm_epsilon: 1e-5,
        // Half of the channels hardly turn over the whole context: they are what far tokens are
        // found by, and what a page's minimum and maximum bound well.
        rope: RopeConfig::new().with_theta(1e7),
        blocks: Blocks::default(),
        tie_word_embeddings: true,
        quantization: None,
        dtype: None,
        bos_token_id: Some(0),
        stop_token_ids: vec![1],
    }
}

/// A model for machines without a GPU.
pub(crate) fn tiny_model(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        d_model: 32,
        d_ff: 64,
        n_layers: 3,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        max_positions: 1024,
        ..standard_model(vocab_size)
    }
}

/// A model whose weights follow from a seed, on every device the same.
pub(crate) fn weights(config: &ModelConfig, seed: u64, device: &Device) -> CausalLm {
    let mut initializer = Initializer {
        rng: StdRng::seed_from_u64(seed),
        path: Vec::new(),
        residual: (2.0 * config.n_layers as f64).sqrt().recip(),
    };
    config.init(device).map(&mut initializer)
}

struct Initializer {
    rng: StdRng,
    path: Vec<String>,
    /// Scale of what is added to the residual stream.
    residual: f64,
}

impl Initializer {
    /// A normally distributed number (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.rng.random::<f64>()).cos()
    }
}

impl ModuleMapper for Initializer {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Norms begin as ones.
        if D != 2 {
            return param;
        }
        let path = self.path.join(".");
        param.map(|tensor| {
            let shape = tensor.dims();
            let deviation = match path.as_str() {
                "embed_tokens.weight" => 0.05,
                path if path.contains("o_proj") || path.contains("down_proj") => {
                    self.residual / (shape[0] as f64).sqrt()
                }
                _ => (shape[0] as f64).sqrt().recip(),
            };
            let values = (0..shape.iter().product())
                .map(|_| (deviation * self.normal()) as f32)
                .collect::<Vec<_>>();
            Tensor::from_data(TensorData::new(values, shape), &tensor.device())
                .set_require_grad(tensor.is_require_grad())
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;

    use super::*;
    use crate::network::{Sight, logits, rows};

    #[test]
    fn the_standard_model_fits_the_size_that_may_be_shipped() {
        let parameters = standard_model(1024).n_parameters();
        assert!((4_000_000..6_000_000).contains(&parameters), "{parameters}");
    }

    #[test]
    fn every_parameter_gets_a_gradient_and_keeps_its_shape() {
        let device = Device::default().autodiff();
        let config = tiny_model(50);
        let model = weights(&config, 1, &device);
        let ids = rows(&[1, 2, 3, 4, 5, 6], [1, 6], &device);
        let positions = rows(&[0, 1, 2, 3, 4, 5], [1, 6], &device);
        let sight = Sight::new(&[Some(2), None, None], 6, &device);
        let loss = logits(&model, ids, positions, &sight).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        // Nine weights a layer, the embedding and the last norm.
        assert_eq!(gradients.len(), 9 * config.n_layers + 2);
        let mlp = model.layers[0].mlp.gated().unwrap();
        let gradient = gradients.get::<2>(mlp.up_proj.weight.id);
        assert_eq!(gradient.unwrap().dims(), [config.d_model, config.d_ff]);
    }
}
