use burn::{
    nn::{Linear, RmsNorm},
    tensor::{Tensor, activation::silu},
};

use super::contiguous::joined;
use super::{
    InputObserver, LinearWeight, QuantizationConfig, QuantizationError, QuantizedWeight,
    WeightFormat,
};
#[cfg(feature = "cube")]
use crate::kernels;
use crate::rms_norm;

/// A linear layer whose weights lie as in checkpoints, a row per output channel; they may be
/// [quantised](Self::quantize).
///
/// Where kernels or native code run, weights are unpacked in registers for a few rows. Native code widens
/// a block of them at a time for more; elsewhere they are made whole for the product and dropped after it.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use quest_burn_linear::{InferenceLinear, QuantizationError, WeightFormat};
///
/// # fn main() -> Result<(), QuantizationError> {
/// let device = Device::default();
/// let weight = Tensor::<2>::random([8, 128], Distribution::Default, &device);
/// let layer = InferenceLinear::new(weight, None).with_weights(WeightFormat::Int8)?;
///
/// let token = Tensor::ones([1, 128], &device);
/// assert_eq!(layer.forward(token).dims(), [1, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct InferenceLinear {
    pub(super) weight: LinearWeight,
    /// `[d_output]`
    pub(super) bias: Option<Tensor<1>>,
    pub(super) observer: Option<InputObserver>,
    pub(super) rounding: RowRounding,
}

/// What becomes of a few rows that native code multiplies with integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowRounding {
    /// They are rounded to 8 bits, with a scale for each 32 channels, as llama.cpp does.
    #[default]
    Eight,
    /// What rounding to 8 bits leaves off is multiplied too, in another 8 bits: each weight is read once and
    /// multiplied twice.
    Sixteen,
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
        Self::with_weight(LinearWeight::Full(weight), bias)
    }

    /// A layer with weights that are quantised already.
    ///
    /// # Shapes
    ///
    /// - bias: `[d_output]`
    ///
    /// # Panics
    ///
    /// When the shapes do not fit together.
    pub fn quantized(weight: QuantizedWeight, bias: Option<Tensor<1>>) -> Self {
        Self::with_weight(LinearWeight::Quantized(weight), bias)
    }

    /// A layer with weights in any form.
    ///
    /// # Shapes
    ///
    /// - bias: `[d_output]`
    ///
    /// # Panics
    ///
    /// When the shapes do not fit together.
    pub fn with_weight(weight: LinearWeight, bias: Option<Tensor<1>>) -> Self {
        let [d_output, _] = weight.dims();
        if let Some(bias) = &bias {
            burn::tensor::assert_shape!(bias, [d_output]);
        }
        Self {
            weight,
            bias,
            observer: None,
            rounding: RowRounding::default(),
        }
    }

    /// The weights.
    pub fn weight(&self) -> &LinearWeight {
        &self.weight
    }

    /// The weights, without the layer.
    pub fn into_weight(self) -> LinearWeight {
        self.weight
    }

    /// The layer with other weights of the same channels, without an observer.
    ///
    /// # Panics
    ///
    /// When they are of other output channels.
    pub fn replace_weight(self, weight: LinearWeight) -> Self {
        Self::with_weight(weight, self.bias).with_row_rounding(self.rounding)
    }

    /// The layer with someone who is shown the rows that it is applied to, normed where it norms them.
    pub fn with_observer(self, observer: InputObserver) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// The layer with another rounding of rows, where they are rounded.
    pub fn with_row_rounding(self, rounding: RowRounding) -> Self {
        Self { rounding, ..self }
    }

    /// The layer with its weights rounded to a few bits.
    ///
    /// # Errors
    ///
    /// When the configuration is not valid or does not fit the layer.
    pub fn quantize(self, config: QuantizationConfig) -> Result<Self, QuantizationError> {
        let weight = QuantizedWeight::new(self.weight.dequantize(), config)?;
        Ok(Self {
            weight: LinearWeight::Quantized(weight),
            ..self
        })
    }

    /// The layer with its weights in another form; full ones stay as they are.
    ///
    /// # Errors
    ///
    /// When the form does not fit the layer.
    pub fn with_weights(self, format: WeightFormat) -> Result<Self, QuantizationError> {
        match format.quantization() {
            None => Ok(self),
            Some(config) => self.quantize(config),
        }
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
        let is_one_type = weights.iter().all(|w| w.dtype() == weights[0].dtype());
        let weight = match is_one_type {
            true => LinearWeight::Full(joined(weights)),
            false => {
                let parts = weights.into_iter().map(|weight| joined(vec![weight]));
                LinearWeight::stack(parts.map(LinearWeight::Full).collect())
            }
        };
        Self {
            weight,
            bias: (!biases.is_empty()).then(|| joined(biases)),
            observer: None,
            rounding: RowRounding::default(),
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
        if let Some(output) = self.forward_fused(&rows, None, None, false) {
            return output;
        }
        let product = match &self.weight {
            LinearWeight::Sparse(weight) if rows.dims()[0] == 1 => weight.reference(rows),
            weight => product(rows, weight.dequantize()),
        };
        match &self.bias {
            Some(bias) => product + bias.clone().unsqueeze(),
            None => product,
        }
    }

    /// Norms every row and applies the layer.
    ///
    /// # Shapes
    ///
    /// - rows: `[n, d_input]`
    /// - output: `[n, d_output]`
    ///
    /// # Panics
    ///
    /// When the last axis of `rows` is not `d_input`.
    pub fn forward_normed(&self, rows: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        if let Some(output) = self.forward_fused(&rows, Some(norm), None, false) {
            return output;
        }
        self.forward(rms_norm(norm, rows))
    }

    /// Applies the layer to every row and adds the result to a residual.
    ///
    /// # Shapes
    ///
    /// - rows: `[n, d_input]`
    /// - residual, output: `[n, d_output]`
    ///
    /// # Panics
    ///
    /// When the shapes do not fit the layer.
    pub fn forward_added(&self, rows: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        if let Some(output) = self.forward_fused(&rows, None, Some(&residual), false) {
            return output;
        }
        residual + self.forward(rows)
    }

    /// Norms every row and applies a layer of which the first half of the outputs gates the second:
    /// `silu(gate) * up`.
    ///
    /// # Shapes
    ///
    /// - rows: `[n, d_input]`
    /// - output: `[n, d_output / 2]`
    ///
    /// # Panics
    ///
    /// When the last axis of `rows` is not `d_input`, or the number of outputs is odd.
    pub fn forward_normed_gated(&self, rows: Tensor<2>, norm: &RmsNorm) -> Tensor<2> {
        let d_output = self.d_output();
        assert!(
            d_output.is_multiple_of(2),
            "outputs of a gated layer: expected an even number, found {d_output}"
        );
        if let Some(output) = self.forward_fused(&rows, Some(norm), None, true) {
            return output;
        }
        gated(self.forward(rms_norm(norm, rows)))
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

/// The first half of the outputs gates the second.
pub(super) fn gated(outputs: Tensor<2>) -> Tensor<2> {
    let half = outputs.dims()[1] / 2;
    let gate = outputs.clone().narrow(1, 0, half);
    silu(gate) * outputs.narrow(1, half, half)
}

/// Every row times the transpose of a weight `[d_output, d_input]`.
fn product(rows: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cube")]
    if kernels::device::supports(&rows.device(), rows.dtype(), 1) && rows.dtype() == weight.dtype()
    {
        return kernels::matmul_rows(rows, weight);
    }
    let weight = match rows.dtype() {
        dtype if dtype == weight.dtype() => weight,
        dtype => weight.cast(dtype),
    };
    rows.matmul(weight.transpose())
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

    #[cfg(feature = "flex")]
    #[test]
    fn rows_in_sixteen_bits_are_a_hundredth_as_far_from_floats() -> Result<(), QuantizationError> {
        let device = Device::flex();
        let d_input = 320;
        let random = |n| Tensor::<2>::random([n, d_input], Distribution::Default, &device);
        let layer = InferenceLinear::new(random(48), None).with_weights(WeightFormat::Int8)?;
        for m in [1, 3] {
            let rows = random(m);
            let floats = rows.clone().matmul(layer.weight().dequantize().transpose());
            let off = |rounding| {
                let layer = layer.clone().with_row_rounding(rounding);
                let off = (layer.forward(rows.clone()) - floats.clone()).abs().max();
                off.into_scalar::<f32>()
            };
            let (eight, sixteen) = (off(RowRounding::Eight), off(RowRounding::Sixteen));
            assert!(eight > 0.0, "{m} rows are not rounded");
            assert!(sixteen < eight / 100.0, "{m} rows: {sixteen} and {eight}");
        }
        Ok(())
    }

    #[test]
    #[should_panic(expected = "biases of merged layers: expected none or 2, found 1")]
    fn layers_with_and_without_a_bias_are_not_merged() {
        let device = Device::default();
        let layer = |bias| LinearConfig::new(4, 4).with_bias(bias).init(&device);
        InferenceLinear::merge([layer(true), layer(false)]);
    }
}
