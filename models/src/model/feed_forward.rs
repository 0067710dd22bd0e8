use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

use super::{Mlp, SparseMlp};
use crate::config::ModelConfig;

/// The feed-forward block of a layer.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of them in a layer, whose other parts are as large"
)]
pub enum FeedForward {
    /// One for all tokens.
    Gated(Mlp),
    /// Experts, of which each token goes through some.
    Experts(SparseMlp),
}

impl FeedForward {
    pub(super) fn new(config: &ModelConfig, layer: usize, device: &Device) -> Self {
        let experts = config.blocks.experts.as_ref();
        match experts.filter(|experts| experts.has(layer)) {
            None => Self::Gated(Mlp::new(config, config.d_ff, device)),
            Some(experts) => Self::Experts(SparseMlp::new(config, experts, device)),
        }
    }

    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, d_model]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gated(mlp) => mlp.forward(hidden),
            Self::Experts(experts) => experts.forward(hidden),
        }
    }

    /// The block that all tokens go through, where there are no experts.
    pub fn gated(&self) -> Option<&Mlp> {
        match self {
            Self::Gated(mlp) => Some(mlp),
            Self::Experts(_) => None,
        }
    }
}
