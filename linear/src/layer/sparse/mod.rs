//! Weights by input channels, of which those that matter to a row are read.

mod low_rank;
#[cfg(feature = "flex")]
pub(super) mod native;
mod observer;

use burn::tensor::{DType, Device, Tensor, assert_shape};

use super::{QuantizationConfig, QuantizationError, QuantizedWeight, contiguous::joined};

#[cfg(feature = "cube")]
use crate::kernels::{self, linear::ChannelWeight};

pub use low_rank::LowRank;
pub use observer::InputObserver;

/// Weights of a linear layer that lie an input channel after the other, for rows of which only the channels
/// that matter are read.
///
/// A channel of a row matters where `|x| * ||w||`, with the norm of the channel's weights, is above a
/// threshold; others are skipped, or given to factors of low rank. That is for a row on its own, a token that is
/// decoded: several rows, as of a prompt, are multiplied with every channel of the same weights.
///
/// Liu et al., "R-Sparse: Rank-Aware Activation Sparsity for Efficient LLM Inference", ICLR 2025.
#[derive(Clone, Debug)]
pub struct SparseWeight {
    stored: StoredChannels,
    /// Of a channel's weights, `[d_input]` in f32.
    norms: Tensor<1>,
    threshold: f32,
    low_rank: Option<LowRank>,
    dtype: DType,
}

/// The weights, `[d_input, d_output]`.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a weight has one of them")]
enum StoredChannels {
    Full(Tensor<2>),
    /// In 8 bits, with scales in f32 for neighbouring outputs of a channel.
    Int8(QuantizedWeight),
}

impl SparseWeight {
    /// Weights as they are, in their dtype.
    ///
    /// # Shapes
    ///
    /// - weight: `[d_output, d_input]`
    ///
    /// # Panics
    ///
    /// When the factors are of other channels.
    pub fn new(weight: Tensor<2>, threshold: f32, low_rank: Option<LowRank>) -> Self {
        let norms = norms(&weight);
        let stored = StoredChannels::Full(joined(vec![weight.clone().transpose()]));
        Self::with_stored(stored, &weight, norms, threshold, low_rank)
    }

    /// Weights rounded to 8 bits, with a scale for each 128 outputs of a channel or, where there are not as many,
    /// the largest power of two that divides them.
    ///
    /// # Shapes
    ///
    /// - weight: `[d_output, d_input]`
    ///
    /// # Errors
    ///
    /// When the output channels make no groups, or the device fails.
    ///
    /// # Panics
    ///
    /// When the factors are of other channels.
    pub fn int8(
        weight: Tensor<2>,
        threshold: f32,
        low_rank: Option<LowRank>,
    ) -> Result<Self, QuantizationError> {
        let norms = norms(&weight);
        // Scales in f32 are read where they lie.
        let channels = weight.clone().cast(DType::F32).transpose();
        let rounded = QuantizedWeight::new(channels, QuantizationConfig::new(8));
        let rounded = rounded.map_err(|error| match error {
            QuantizationError::Input(outputs) => QuantizationError::Output(outputs),
            error => error,
        })?;
        let stored = StoredChannels::Int8(rounded);
        Ok(Self::with_stored(
            stored, &weight, norms, threshold, low_rank,
        ))
    }

    fn with_stored(
        stored: StoredChannels,
        weight: &Tensor<2>,
        norms: Tensor<1>,
        threshold: f32,
        low_rank: Option<LowRank>,
    ) -> Self {
        let ([d_output, d_input], dtype) = (weight.dims(), weight.dtype());
        let low_rank = low_rank.map(|LowRank { down, up }| {
            let rank = up.dims()[0];
            assert_shape!(down, [d_input, rank]);
            assert_shape!(up, [rank, d_output]);
            LowRank {
                down: joined(vec![down.cast(dtype)]),
                up: joined(vec![up.cast(dtype)]),
            }
        });
        Self {
            stored,
            norms,
            threshold,
            low_rank,
            dtype,
        }
    }

    /// Output channels and input channels.
    pub fn dims(&self) -> [usize; 2] {
        let [d_input, d_output] = match &self.stored {
            StoredChannels::Full(channels) => channels.dims(),
            StoredChannels::Int8(channels) => channels.dims(),
        };
        [d_output, d_input]
    }

    /// The dtype of the rows that they are multiplied with.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the weights and of the factors.
    pub fn bytes(&self) -> u64 {
        let full =
            |tensor: &Tensor<2>| (tensor.shape().num_elements() * tensor.dtype().size()) as u64;
        let stored = match &self.stored {
            StoredChannels::Full(channels) => full(channels),
            StoredChannels::Int8(channels) => channels.bytes(),
        };
        let low_rank = self.low_rank.as_ref();
        stored + low_rank.map_or(0, |factors| full(&factors.down) + full(&factors.up))
    }

    /// The largest `|x| * ||w||` of channels that are skipped.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Whether skipped channels are not read on a device: on the Flex backend, and on GPUs where the kernels run.
    pub fn skips_on(device: &Device) -> bool {
        #[cfg(feature = "flex")]
        if crate::flex::runs_on(device) {
            return true;
        }
        #[cfg(feature = "cube")]
        if kernels::device::supported(device) {
            return true;
        }
        let _ = device;
        false
    }

    /// As the kernels take it.
    #[cfg(feature = "cube")]
    pub fn kernel_weight(&self) -> ChannelWeight {
        let factors = self.low_rank.as_ref();
        ChannelWeight {
            weights: match &self.stored {
                StoredChannels::Full(channels) => channels.clone().into(),
                StoredChannels::Int8(channels) => channels.packed().into(),
            },
            norms: self.norms.clone(),
            threshold: self.threshold,
            factors: factors.map(|factors| [factors.down.clone(), factors.up.clone()]),
        }
    }

    /// All the weights in the dtype that is computed in.
    ///
    /// # Shapes
    ///
    /// - output: `[d_output, d_input]`
    pub fn dequantize(&self) -> Tensor<2> {
        self.channels().transpose()
    }

    /// `[d_input, d_output]`
    fn channels(&self) -> Tensor<2> {
        match &self.stored {
            StoredChannels::Full(channels) => channels.clone(),
            StoredChannels::Int8(channels) => channels.dequantize().cast(self.dtype),
        }
    }

    /// Products with rows in tensor operations, which read every channel.
    ///
    /// # Shapes
    ///
    /// - rows: `[n, d_input]`
    /// - output: `[n, d_output]`
    pub fn reference(&self, rows: Tensor<2>) -> Tensor<2> {
        if rows.dims()[0] != 1 {
            return rows.matmul(self.channels());
        }
        let scores = rows.clone().cast(DType::F32).abs() * self.norms.clone().unsqueeze();
        let skipped = scores.lower_equal_elem(self.threshold);
        let active = rows.clone().mask_fill(skipped.clone(), 0.0);
        let sum = active.matmul(self.channels());
        match &self.low_rank {
            None => sum,
            Some(factors) => sum + factors.forward(rows.mask_fill(skipped.bool_not(), 0.0)),
        }
    }
}

/// The norm of each input channel's weights, in f32.
///
/// # Shapes
///
/// - weight: `[d_output, d_input]`
/// - output: `[d_input]`
pub fn channel_norms(weight: &Tensor<2>) -> Vec<f32> {
    let norms = norms(weight).into_data_as::<f32>();
    norms.try_to_vec().expect("read as f32")
}

/// The same on the device.
fn norms(weight: &Tensor<2>) -> Tensor<1> {
    let [_, d_input] = weight.dims();
    let squares = weight.clone().cast(DType::F32).square().sum_dim(0);
    squares.sqrt().reshape([d_input])
}

#[cfg(test)]
mod tests;
