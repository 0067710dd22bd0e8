use burn::{nn::Linear, tensor::Tensor};

/// A linear layer whose weights lie as in checkpoints, a row per output channel.
#[derive(Clone, Debug)]
pub struct InferenceLinear {
    /// `[d_output, d_input]`
    weight: Tensor<2>,
    /// `[d_output]`
    bias: Option<Tensor<1>>,
}

impl InferenceLinear {
    /// A layer with the given weights.
    ///
    /// # Shapes
    ///
    /// - weight: `[d_output, d_input]`
    /// - bias: `[d_output]`
    ///
    /// # Panics
    ///
    /// When the shapes do not fit together.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        let [d_output, _] = weight.dims();
        if let Some(bias) = &bias {
            burn::tensor::assert_shape!(bias, [d_output]);
        }
        Self { weight, bias }
    }

    /// One layer whose outputs are those of several, one after the other.
    ///
    /// # Panics
    ///
    /// When there is none, or their inputs differ, or only some have a bias.
    pub fn merge(layers: impl IntoIterator<Item = Linear>) -> Self {
        let (weights, biases): (Vec<_>, Vec<_>) = layers
            .into_iter()
            .map(|layer| (layer.weight.val().transpose(), layer.bias.map(|b| b.val())))
            .unzip();
        let n = biases.len();
        let biases = biases.into_iter().flatten().collect::<Vec<_>>();
        assert!(
            biases.is_empty() || biases.len() == n,
            "biases of merged layers: expected none or {n}, found {}",
            biases.len()
        );
        Self {
            weight: joined(weights),
            bias: (!biases.is_empty()).then(|| joined(biases)),
        }
    }

    /// Applies the layer to every row.
    ///
    /// # Shapes
    ///
    /// - rows: `[n, d_input]`
    /// - output: `[n, d_output]`
    ///
    /// # Panics
    ///
    /// When the last axis of `rows` is not `d_input`.
    pub fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let product = rows.matmul(self.weight.clone().transpose());
        match &self.bias {
            Some(bias) => product + bias.clone().unsqueeze(),
            None => product,
        }
    }

    /// Channels of the output.
    pub fn d_output(&self) -> usize {
        self.weight.dims()[0]
    }
}

impl From<Linear> for InferenceLinear {
    fn from(layer: Linear) -> Self {
        Self::merge([layer])
    }
}

/// Laid one after the other along the first axis; a single one is not copied.
fn joined<const D: usize>(mut parts: Vec<Tensor<D>>) -> Tensor<D> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 0),
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{LinearConfig, LinearLayout},
        tensor::{Device, Distribution, Tolerance},
    };

    use super::*;

    #[test]
    fn outputs_of_merged_layers_lie_one_after_the_other() {
        let device = Device::default();
        for layout in [LinearLayout::Row, LinearLayout::Col] {
            for bias in [false, true] {
                let layer = |d_output| {
                    LinearConfig::new(6, d_output)
                        .with_bias(bias)
                        .with_layout(layout)
                        .init(&device)
                };
                let layers = [layer(10), layer(3)];
                let rows = Tensor::<2>::random([5, 6], Distribution::Default, &device);
                let expected = layers.each_ref().map(|layer| layer.forward(rows.clone()));
                let expected = Tensor::cat(expected.to_vec(), 1);
                let merged = InferenceLinear::merge(layers);
                assert_eq!(merged.d_output(), 13);
                merged
                    .forward(rows)
                    .into_data()
                    .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
            }
        }
    }

    #[test]
    #[should_panic(expected = "biases of merged layers: expected none or 2, found 1")]
    fn layers_with_and_without_a_bias_are_not_merged() {
        let device = Device::default();
        let layer = |bias| LinearConfig::new(4, 4).with_bias(bias).init(&device);
        InferenceLinear::merge([layer(true), layer(false)]);
    }
}
