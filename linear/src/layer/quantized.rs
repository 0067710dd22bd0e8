use burn::tensor::{DType, Int, Tensor, TensorData, assert_shape};

use super::{QuantizationConfig, QuantizationError, contiguous::joined};
#[cfg(feature = "cube")]
use crate::kernels::{self, linear::PackedWeight};

/// Weights that are rounded at a time: what that takes is several times as large.
const AT_ONCE: usize = 1 << 24;

/// Weights of a linear layer in 4 or 8 bits: `(q - zero) * scale`, with an integer `q`.
#[derive(Clone, Debug)]
pub struct QuantizedWeight {
    config: QuantizationConfig,
    /// `[d_output, d_input * bits / 32]` in i32; the first weight of a word in its lowest bits.
    words: Tensor<2, Int>,
    /// `[d_output, d_input / group]`
    scales: Tensor<2>,
    /// `[d_output, d_input / group]`, integers; the middle of the range where symmetric.
    zeros: Option<Tensor<2>>,
}

impl QuantizedWeight {
    /// Rounds weights; scales and zero points get their dtype.
    ///
    /// # Shapes
    ///
    /// - weight: `[d_output, d_input]`
    ///
    /// # Errors
    ///
    /// When the configuration is not valid or does not fit the weights.
    pub fn new(weight: Tensor<2>, config: QuantizationConfig) -> Result<Self, QuantizationError> {
        let [n, d_input] = weight.dims();
        let group = config.group_of(d_input)?;
        let rows = (AT_ONCE / d_input).max(1);
        let mut parts = Vec::new();
        for first in (0..n).step_by(rows) {
            let rows = rows.min(n - first);
            let part = rounded(weight.clone().narrow(0, first, rows), config, group);
            if rows < n {
                // What the part took is free before the next one is begun.
                weight.device().sync()?;
            }
            parts.push(part);
        }
        let mut zeros = Vec::new();
        let (words, scales) = (parts.into_iter())
            .map(|part| {
                zeros.extend(part.zeros);
                (part.words, part.scales)
            })
            .unzip();
        Ok(Self {
            config,
            words: joined(words),
            scales: joined(scales),
            zeros: (!zeros.is_empty()).then(|| joined(zeros)),
        })
    }

    /// Weights that are quantised already.
    ///
    /// # Shapes
    ///
    /// - words: `[d_output, d_input * bits / 32]` in i32; the first weight of a word in its lowest bits
    /// - scales: `[d_output, d_input / group]`, in the dtype that is computed in
    /// - zeros, where asymmetric: as scales, integers
    ///
    /// # Errors
    ///
    /// When the configuration is not valid or does not fit the weights.
    ///
    /// # Panics
    ///
    /// When shapes or dtypes do not fit together.
    pub fn from_packed(
        config: QuantizationConfig,
        words: Tensor<2, Int>,
        scales: Tensor<2>,
        zeros: Option<Tensor<2>>,
    ) -> Result<Self, QuantizationError> {
        config.validate()?;
        let [n, words_per_row] = words.dims();
        let d_input = words_per_row * config.per_word();
        let groups = d_input / config.group_of(d_input)?;
        assert_shape!(scales, [n, groups]);
        assert_eq!(words.dtype(), DType::I32, "dtype of packed weights");
        assert_eq!(
            zeros.is_some(),
            config.asymmetric,
            "zero points where asymmetric, and there only"
        );
        if let Some(zeros) = &zeros {
            assert_shape!(zeros, [n, groups]);
            assert_eq!(zeros.dtype(), scales.dtype(), "dtype of zero points");
        }
        Ok(Self {
            config,
            words: joined(vec![words]),
            scales: joined(vec![scales]),
            zeros: zeros.map(|zeros| joined(vec![zeros])),
        })
    }

    /// How the weights were rounded.
    pub fn config(&self) -> QuantizationConfig {
        self.config
    }

    /// The dtype that the weights had.
    pub fn dtype(&self) -> DType {
        self.scales.dtype()
    }

    /// Output channels and input channels.
    pub fn dims(&self) -> [usize; 2] {
        let [n, words] = self.words.dims();
        [n, words * self.config.per_word()]
    }

    /// Weights that share a scale.
    pub fn group(&self) -> usize {
        let [_, groups] = self.scales.dims();
        self.dims()[1] / groups
    }

    /// The distance of a group's values, `[d_output, d_input / group]`.
    pub fn scales(&self) -> &Tensor<2> {
        &self.scales
    }

    /// The packed weights, `[d_output, d_input * bits / 32]` in i32; the first weight of a word in its
    /// lowest bits.
    pub fn words(&self) -> &Tensor<2, Int> {
        &self.words
    }

    /// Where zero is among a group's values, `[d_output, d_input / group]`; in the middle where there is
    /// none.
    pub fn zeros(&self) -> Option<&Tensor<2>> {
        self.zeros.as_ref()
    }

    /// Bytes of weights, scales and zero points.
    pub fn bytes(&self) -> u64 {
        let group_bytes = self.scales.shape().num_elements() * self.scales.dtype().size();
        let group_bytes = group_bytes * (1 + usize::from(self.zeros.is_some()));
        (self.words.shape().num_elements() * size_of::<i32>() + group_bytes) as u64
    }

    /// The rounded weights in the dtype that they had, by a kernel where it runs.
    ///
    /// # Shapes
    ///
    /// - output: `[d_output, d_input]`
    pub fn dequantize(&self) -> Tensor<2> {
        #[cfg(feature = "cube")]
        if kernels::device::supports(&self.words.device(), self.dtype(), 1) {
            return kernels::linear::widen(self.packed(), self.dtype());
        }
        self.reference()
    }

    /// [`dequantize`](Self::dequantize) in plain tensor operations.
    ///
    /// # Shapes
    ///
    /// - output: `[d_output, d_input]`
    pub fn reference(&self) -> Tensor<2> {
        let [n, d_input] = self.dims();
        let [_, groups] = self.scales.dims();
        let per_word = self.config.per_word();
        let words = d_input / per_word;
        let device = self.words.device();
        let shifts = (0..per_word).map(|i| (i * self.config.bits) as i32);
        let shifts = TensorData::new(shifts.collect::<Vec<_>>(), [1, 1, per_word]);
        let shifts = Tensor::<3, Int>::from_data(shifts, (&device, DType::I32));
        let values = (self.words.clone().unsqueeze_dim::<3>(2))
            .expand([n, words, per_word])
            .bitwise_right_shift(shifts.expand([n, words, per_word]))
            .bitwise_and_scalar(self.config.max());
        let values = (values.float().cast(DType::F32)).reshape([n, groups, self.group()]);
        let values = match &self.zeros {
            Some(zeros) => values - zeros.clone().cast(DType::F32).unsqueeze_dim::<3>(2),
            None => values.sub_scalar(self.config.middle()),
        };
        let scales = self.scales.clone().cast(DType::F32);
        let weight = values * scales.unsqueeze_dim::<3>(2);
        weight.reshape([n, d_input]).cast(self.dtype())
    }

    /// As the kernels take it.
    #[cfg(feature = "cube")]
    pub fn packed(&self) -> PackedWeight {
        PackedWeight {
            words: self.words.clone(),
            scales: self.scales.clone(),
            zeros: self.zeros.clone(),
            bits: self.config.bits,
        }
    }
}

/// Rounds weights, `[d_output, d_input]`.
fn rounded(weight: Tensor<2>, config: QuantizationConfig, group: usize) -> QuantizedWeight {
    let [n, d_input] = weight.dims();
    let dtype = weight.dtype();
    let weight = weight.cast(DType::F32).reshape([n, d_input / group, group]);
    let (scales, zeros) = if config.asymmetric {
        // Zero is in the range, so that it is exact.
        let min = weight.clone().min_dim(2).clamp_max(0.0);
        let greatest = weight.clone().max_dim(2).clamp_min(0.0);
        let scales = stored((greatest - min.clone()).div_scalar(config.max()), dtype);
        let zeros = (-min / nonzero(scales.clone())).round();
        (scales, Some(zeros))
    } else {
        let greatest = weight.clone().abs().max_dim(2);
        let scales = greatest.div_scalar(config.middle() - 1);
        (stored(scales, dtype), None)
    };
    let quotients = (weight / nonzero(scales.clone())).round();
    let values = match &zeros {
        Some(zeros) => quotients + zeros.clone(),
        None => quotients.add_scalar(config.middle()),
    };
    let values = values.clamp(0.0, f64::from(config.max()));
    let per_word = config.per_word();
    let values = (values.int().cast(DType::I32)).reshape([n, d_input / per_word, per_word]);
    let words = (0..per_word)
        .map(|i| {
            let mut values = values.clone().narrow(2, i, 1).squeeze_dim::<2>(2);
            if i + 1 == per_word {
                // With the sign that its highest bit is in the word: not every backend lets a number
                // be shifted into the sign.
                let is_high = values.clone().greater_equal_elem(config.middle());
                let negative = values.clone().sub_scalar(config.max() + 1);
                values = values.mask_where(is_high, negative);
            }
            values.mul_scalar(1 << (i * config.bits))
        })
        .reduce(Tensor::add)
        .expect("a word holds weights");
    let small = |tensor: Tensor<3>| tensor.squeeze_dim::<2>(2).cast(dtype);
    QuantizedWeight {
        config,
        words,
        scales: small(scales),
        zeros: zeros.map(small),
    }
}

/// Scales as they are stored, rounded up, so that no weight is beyond the range.
fn stored(scales: Tensor<3>, dtype: DType) -> Tensor<3> {
    let rounded = |scales: Tensor<3>| scales.cast(dtype).cast(DType::F32);
    // One unit in the last place, and the smallest number above zero.
    let (unit, smallest) = match dtype {
        DType::F16 => (1.0 / 1024.0, 1.0 / (1 << 24) as f64),
        DType::BF16 => (1.0 / 128.0, 0.0),
        _ => return scales,
    };
    let nearest = rounded(scales.clone());
    let above = rounded(scales.clone().mul_scalar(1.0 + unit).add_scalar(smallest));
    let is_less = nearest.clone().lower(scales);
    nearest.mask_where(is_less, above)
}

/// A divisor for groups of which all weights are zero.
fn nonzero(scales: Tensor<3>) -> Tensor<3> {
    let zero = scales.clone().equal_elem(0.0);
    scales.mask_fill(zero, 1.0)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn configs() -> impl Iterator<Item = QuantizationConfig> {
        let config = |bits, asymmetric| QuantizationConfig::new(bits).with_asymmetric(asymmetric);
        [4, 8]
            .into_iter()
            .flat_map(move |bits| [false, true].map(|asymmetric| config(bits, asymmetric)))
    }

    #[test]
    fn a_weight_is_off_by_half_a_step_at_most() {
        let device = Device::default();
        for config in configs() {
            for (d_input, group) in [(256, 128), (704, 64), (48, 16)] {
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    for size in [1.0, 1e-4] {
                        let noise = Distribution::Normal(0.1 * size, size);
                        let weight = Tensor::<2>::random([6, d_input], noise, &device).cast(dtype);
                        let quantized = QuantizedWeight::new(weight.clone(), config).unwrap();
                        assert_eq!(quantized.dims(), [6, d_input]);
                        assert_eq!(quantized.group(), group);
                        // In f32, so that only the rounding to integers counts.
                        let exact = QuantizedWeight {
                            scales: quantized.scales.clone().cast(DType::F32),
                            zeros: quantized.zeros.clone().map(|zeros| zeros.cast(DType::F32)),
                            ..quantized
                        };
                        let groups = d_input / group;
                        let error = (exact.dequantize() - weight.cast(DType::F32))
                            .abs()
                            .reshape([6, groups, group])
                            .max_dim(2)
                            .squeeze_dim::<2>(2);
                        let error = (error / exact.scales).max().into_scalar::<f32>();
                        assert!(
                            error <= 0.5001,
                            "{config}, {d_input}, {dtype:?}, {size}: {error}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zero() {
        let device = Device::default();
        for config in configs() {
            let mut weight = Tensor::<2>::zeros([2, 256], &device);
            weight = weight.slice_fill([0..1, 0..1], 3.0);
            let quantized = QuantizedWeight::new(weight, config).unwrap();
            let values = quantized.dequantize().into_data();
            let values = values.try_to_vec::<f32>().unwrap();
            assert!((values[0] - 3.0).abs() < 1e-3, "{}", values[0]);
            assert!(values[1..].iter().all(|&value| value == 0.0));
        }
    }

    #[test]
    fn bytes_are_as_many_as_the_configuration_says() {
        let device = Device::default();
        for config in configs() {
            let weight = Tensor::<2>::zeros([10, 192], (&device, DType::F16));
            let bytes = QuantizedWeight::new(weight, config).unwrap().bytes();
            assert_eq!(
                bytes,
                config.bytes(10, 192, DType::F16).unwrap(),
                "{config}"
            );
        }
    }
}
