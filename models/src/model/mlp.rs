use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{
        Device, Tensor,
        activation::{gelu_approximate, silu},
    },
};
use quest_burn::attention::project;

use super::LAYOUT;
use crate::config::{Activation, ModelConfig};

/// The gated feed-forward block: `down(act(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Projection that gates, `d_model -> d_ff`.
    pub gate_proj: Linear,
    /// Projection that is gated, `d_model -> d_ff`.
    pub up_proj: Linear,
    /// Projection back, `d_ff -> d_model`.
    pub down_proj: Linear,
    /// What the gate goes through.
    #[module(skip)]
    pub activation: Activation,
}

impl Activation {
    /// Applies it to every channel.
    pub(crate) fn forward<const D: usize>(self, gate: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => silu(gate),
            Self::GeluTanh => gelu_approximate(gate),
        }
    }
}

impl Mlp {
    pub(super) fn new(config: &ModelConfig, d_ff: usize, device: &Device) -> Self {
        let linear = |d_input, d_output| {
            LinearConfig::new(d_input, d_output)
                .with_bias(config.blocks.mlp_bias)
                .with_layout(LAYOUT)
                .init(device)
        };
        Self {
            gate_proj: linear(config.d_model, d_ff),
            up_proj: linear(config.d_model, d_ff),
            down_proj: linear(d_ff, config.d_model),
            activation: config.blocks.activation,
        }
    }

    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, d_model]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let gate = self
            .activation
            .forward(project(&self.gate_proj, hidden.clone()));
        project(&self.down_proj, gate * project(&self.up_proj, hidden))
    }
}
