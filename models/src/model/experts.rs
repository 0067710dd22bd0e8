use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{
        DType, Device, IndexingUpdateOp, Int, Tensor, TensorData,
        activation::{sigmoid, softmax},
    },
};
use quest_burn::attention::project;

use super::{LAYOUT, Mlp};
use crate::config::{Experts, ModelConfig, Routing};

/// Feed-forward blocks of which a router chooses some for each token; their outputs are summed with the
/// router's weights ([Switch Transformers](https://arxiv.org/abs/2101.03961)).
#[derive(Module, Debug)]
pub struct SparseMlp {
    /// The router, `d_model -> experts`.
    pub gate: Linear,
    /// The experts.
    pub experts: Vec<Mlp>,
    /// One that all tokens go through, where there is one.
    pub shared_expert: Option<Mlp>,
    /// Experts that a token goes through.
    pub chosen: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub is_normed: bool,
    /// How the router's logits become weights.
    #[module(skip)]
    pub routing: Routing,
}

impl SparseMlp {
    pub(super) fn new(config: &ModelConfig, experts: &Experts, device: &Device) -> Self {
        Self {
            gate: LinearConfig::new(config.d_model, experts.count)
                .with_bias(false)
                .with_layout(LAYOUT)
                .init(device),
            experts: (0..experts.count)
                .map(|_| Mlp::new(config, experts.d_ff, device))
                .collect(),
            shared_expert: experts
                .shared_d_ff
                .map(|d_ff| Mlp::new(config, d_ff, device)),
            routing: experts.routing,
            chosen: experts.chosen,
            is_normed: experts.is_normed,
        }
    }

    /// # Shapes
    ///
    /// - hidden: `[batch, tokens, d_model]`
    /// - output: `[batch, tokens, d_model]`
    pub fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, d_model] = hidden.dims();
        let logits = project(&self.gate, hidden.clone());
        let [_, _, count] = logits.dims();
        let logits = logits.reshape([batch * tokens, count]);
        let routes = route(logits, self.chosen, self.is_normed, self.routing);
        let shared = (self.shared_expert.as_ref()).map(|shared| shared.forward(hidden.clone()));
        let rows = hidden.reshape([batch * tokens, d_model]);
        let output = routes.forward(rows, |expert, rows| {
            let rows = rows.unsqueeze_dim::<3>(0);
            self.experts[expert].forward(rows).squeeze_dim::<2>(0)
        });
        let output = output.reshape([batch, tokens, d_model]);
        match shared {
            Some(shared) => output + shared,
            None => output,
        }
    }
}

/// Which rows go through which experts.
pub(crate) struct Routes {
    /// `[rows, chosen]`, of the rows' dtype.
    weights: Tensor<2>,
    /// Whether rows are multiplied before they go through an expert, not after it.
    before: bool,
    /// The experts that are chosen, ascending, each with the places in `weights` that name it.
    experts: Vec<(usize, Vec<usize>)>,
}

/// The `chosen` experts with the highest logits `[rows, experts]`. The
/// choice is read on the host, so that nothing but the experts that are chosen is computed.
pub(crate) fn route(logits: Tensor<2>, chosen: usize, is_normed: bool, routing: Routing) -> Routes {
    let dtype = logits.dtype();
    let logits = logits.cast(DType::F32);
    let weights = match routing {
        Routing::Softmax => softmax(logits, 1),
        Routing::SigmoidOfInputs => sigmoid(logits),
    };
    let (mut weights, ids) = weights.topk_with_indices(chosen, 1);
    if is_normed {
        weights = weights.clone() / weights.sum_dim(1);
    }
    let ids = ids.into_data().convert::<i64>().try_to_vec::<i64>();
    let ids = ids.expect("converted to i64");
    let mut places = ids
        .into_iter()
        .enumerate()
        .map(|(place, id)| (id as usize, place))
        .collect::<Vec<_>>();
    places.sort_unstable();
    let experts = places.chunk_by(|(one, _), (other, _)| one == other);
    Routes {
        weights: weights.cast(dtype),
        before: routing == Routing::SigmoidOfInputs,
        experts: experts
            .map(|places| {
                (
                    places[0].0,
                    places.iter().map(|(_, place)| *place).collect(),
                )
            })
            .collect(),
    }
}

impl Routes {
    /// The weighted sum of what the experts make of the rows that go through them; `expert` is told
    /// which one, and its rows.
    ///
    /// # Shapes
    ///
    /// - rows, output: `[rows, d_model]`
    pub(crate) fn forward(
        &self,
        rows: Tensor<2>,
        expert: impl Fn(usize, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let [n, chosen] = self.weights.dims();
        let device = rows.device();
        let weights = self.weights.clone().reshape([n * chosen, 1]);
        let mut sum = Tensor::zeros_like(&rows);
        for (id, places) in &self.experts {
            let indices = |of: &dyn Fn(usize) -> usize| {
                let indices = places.iter().map(|place| of(*place) as i32);
                let indices = TensorData::new(indices.collect::<Vec<_>>(), [places.len()]);
                Tensor::<1, Int>::from_data(indices, &device)
            };
            let weights = weights.clone().select(0, indices(&|place| place));
            let through = |rows: Tensor<2>| match self.before {
                true => expert(*id, rows * weights.clone()),
                false => expert(*id, rows) * weights.clone(),
            };
            if n == 1 {
                sum = sum + through(rows.clone());
                continue;
            }
            let of_expert = indices(&|place| place / chosen);
            let output = through(rows.clone().select(0, of_expert.clone()));
            sum = sum.select_assign(0, of_expert, output, IndexingUpdateOp::Add);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    fn output(is_normed: bool) -> Tensor<2> {
        let device = Device::default();
        // The first row goes through experts 2 and 0, the second through 1 and 2.
        let logits = Tensor::<2>::from_data([[1., 0., 2.], [-3., 2., 1.]], &device);
        let rows = Tensor::<2>::from_data([[1., 10.], [2., 20.]], &device);
        let routes = route(logits, 2, is_normed, Routing::Softmax);
        routes.forward(rows, |expert, rows| rows * (expert as f32 + 1.0))
    }

    #[test]
    fn rows_go_through_the_experts_that_the_router_chooses() {
        let weights = |logits: [f32; 3]| {
            let sum = logits.map(f32::exp).iter().sum::<f32>();
            logits.map(|logit| logit.exp() / sum)
        };
        let (one, two) = (weights([1., 0., 2.]), weights([-3., 2., 1.]));
        let expected = |norms: [f32; 2]| {
            let first = (3. * one[2] + one[0]) / norms[0];
            let second = (2. * two[1] + 3. * two[2]) / norms[1];
            TensorData::from([[first, 10. * first], [2. * second, 20. * second]])
        };
        let tolerance = Tolerance::absolute(1e-5);
        let found = output(false).into_data();
        found.assert_approx_eq::<f32>(&expected([1., 1.]), tolerance);
        let norms = [one[2] + one[0], two[1] + two[2]];
        let found = output(true).into_data();
        found.assert_approx_eq::<f32>(&expected(norms), tolerance);
    }
}
