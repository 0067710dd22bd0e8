use burn::{nn::RmsNorm, tensor::Tensor};
use quest_burn::{
    attention::rms_norm,
    inference::{InferenceLinear, QuantizationError, WeightFormat},
};

use crate::{
    activation_sparsity::Projection,
    config::{Activation, Routing},
    model::{FeedForward, Mlp, SparseMlp, route},
};

/// A [`FeedForward`] with merged projections.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of them in a layer, whose other parts are as large"
)]
pub(crate) enum InferenceFeedForward {
    /// One for all tokens.
    Gated(InferenceMlp),
    /// Experts, of which each token goes through some.
    Experts(InferenceExperts),
}

impl From<FeedForward> for InferenceFeedForward {
    fn from(block: FeedForward) -> Self {
        match block {
            FeedForward::Gated(mlp) => Self::Gated(mlp.into()),
            FeedForward::Experts(experts) => Self::Experts(experts.into()),
        }
    }
}

impl InferenceFeedForward {
    pub(crate) fn with_weights(self, format: WeightFormat) -> Result<Self, QuantizationError> {
        Ok(match self {
            Self::Gated(mlp) => Self::Gated(mlp.with_weights(format)?),
            Self::Experts(experts) => Self::Experts(experts.with_weights(format)?),
        })
    }

    /// The block with what `map` makes of its projections; nothing where there are experts.
    pub(crate) fn map_projections<E>(
        self,
        mut map: impl FnMut(Projection, InferenceLinear) -> Result<InferenceLinear, E>,
    ) -> Result<Option<Self>, E> {
        Ok(match self {
            Self::Gated(mlp) => Some(Self::Gated(InferenceMlp {
                gate_up_proj: map(Projection::GateUp, mlp.gate_up_proj)?,
                down_proj: map(Projection::Down, mlp.down_proj)?,
                ..mlp
            })),
            Self::Experts(_) => None,
        })
    }

    /// Of what `norm` makes of `hidden`, `[batch, tokens, d_model]`; normed by `output_norm` where there
    /// is one, and added to `hidden`.
    pub(crate) fn forward(
        &self,
        hidden: Tensor<3>,
        norm: &RmsNorm,
        output_norm: Option<&RmsNorm>,
    ) -> Tensor<3> {
        let shape = hidden.dims();
        let [batch, tokens, d_model] = shape;
        let rows = hidden.reshape([batch * tokens, d_model]);
        let sum = match (self, output_norm) {
            (Self::Gated(mlp), None) => {
                let gated = mlp.gated(rows.clone(), norm);
                mlp.down_proj.forward_added(gated, rows)
            }
            (block, output_norm) => {
                let output = match block {
                    Self::Gated(mlp) => mlp.down_proj.forward(mlp.gated(rows.clone(), norm)),
                    Self::Experts(experts) => experts.forward(rms_norm(norm, rows.clone())),
                };
                let output = match output_norm {
                    Some(norm) => rms_norm(norm, output),
                    None => output,
                };
                rows + output
            }
        };
        sum.reshape(shape)
    }
}

/// An [`Mlp`] with its projections to the gate and to what is gated merged.
#[derive(Clone, Debug)]
pub(crate) struct InferenceMlp {
    gate_up_proj: InferenceLinear,
    down_proj: InferenceLinear,
    activation: Activation,
}

impl From<Mlp> for InferenceMlp {
    fn from(mlp: Mlp) -> Self {
        Self {
            gate_up_proj: InferenceLinear::merge([mlp.gate_proj, mlp.up_proj]),
            down_proj: mlp.down_proj.into(),
            activation: mlp.activation,
        }
    }
}

impl InferenceMlp {
    pub(crate) fn from_parts(
        gate_up_proj: InferenceLinear,
        down_proj: InferenceLinear,
        activation: Activation,
    ) -> Self {
        Self {
            gate_up_proj,
            down_proj,
            activation,
        }
    }

    fn with_weights(self, format: WeightFormat) -> Result<Self, QuantizationError> {
        Ok(Self {
            gate_up_proj: self.gate_up_proj.with_weights(format)?,
            down_proj: self.down_proj.with_weights(format)?,
            ..self
        })
    }

    /// What is gated of the normed rows: `[n, d_model] -> [n, d_ff]`
    fn gated(&self, rows: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        match self.activation {
            Activation::Silu => self.gate_up_proj.forward_normed_gated(rows, norm),
            _ => self.gate(self.gate_up_proj.forward_normed(rows, norm)),
        }
    }

    /// `[n, 2 * d_ff] -> [n, d_ff]`
    fn gate(&self, outputs: Tensor<2>) -> Tensor<2> {
        let half = self.gate_up_proj.d_output() / 2;
        let gate = outputs.clone().narrow(1, 0, half);
        self.activation.forward(gate) * outputs.narrow(1, half, half)
    }

    /// Of rows that are normed: `[n, d_model] -> [n, d_model]`
    fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let gated = self.gate(self.gate_up_proj.forward(rows));
        self.down_proj.forward(gated)
    }
}

/// A [`SparseMlp`] with the merged projections of its experts.
#[derive(Clone, Debug)]
pub(crate) struct InferenceExperts {
    /// In full: what it chooses must not change.
    gate: InferenceLinear,
    experts: Vec<InferenceMlp>,
    shared_expert: Option<InferenceMlp>,
    chosen: usize,
    is_normed: bool,
    routing: Routing,
}

impl From<SparseMlp> for InferenceExperts {
    fn from(block: SparseMlp) -> Self {
        Self {
            gate: block.gate.into(),
            experts: block.experts.into_iter().map(Into::into).collect(),
            shared_expert: block.shared_expert.map(Into::into),
            routing: block.routing,
            chosen: block.chosen,
            is_normed: block.is_normed,
        }
    }
}

impl InferenceExperts {
    /// The block with experts of another form.
    pub(crate) fn from_parts(
        block: &SparseMlp,
        experts: Vec<InferenceMlp>,
        shared_expert: Option<InferenceMlp>,
    ) -> Self {
        Self {
            gate: block.gate.clone().into(),
            experts,
            shared_expert,
            chosen: block.chosen,
            is_normed: block.is_normed,
            routing: block.routing,
        }
    }

    fn with_weights(self, format: WeightFormat) -> Result<Self, QuantizationError> {
        let experts = self.experts.into_iter();
        Ok(Self {
            experts: experts
                .map(|expert| expert.with_weights(format))
                .collect::<Result<_, _>>()?,
            shared_expert: self
                .shared_expert
                .map(|expert| expert.with_weights(format))
                .transpose()?,
            ..self
        })
    }

    /// Of rows that are normed: `[n, d_model] -> [n, d_model]`
    fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let logits = self.gate.forward(rows.clone());
        let routes = route(logits, self.chosen, self.is_normed, self.routing);
        let output = routes.forward(rows.clone(), |expert, rows| {
            self.experts[expert].forward(rows)
        });
        match &self.shared_expert {
            Some(shared) => output + shared.forward(rows),
            None => output,
        }
    }
}
