use burn::tensor::{DType, Device, Tensor};

use super::{BlockWeight, QuantizedWeight, SparseWeight, blocks::widened, contiguous::joined};
use crate::blocks::{BlockError, BlockFormat};

/// Weights of a linear layer, `[d_output, d_input]`, in one of the forms in which they are kept.
///
/// Where native code runs, whole weights may have another element type than the rows: halves are widened in
/// registers ([`LinearWeight::keeps_halves`]).
// A model has a few hundred of them.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinearWeight {
    /// In an element type.
    Full(Tensor<2>),
    /// In words of 4 or 8 bits, with the scales of groups.
    Quantized(QuantizedWeight),
    /// In the blocks of a GGUF file.
    Blocks(BlockWeight),
    /// By input channels, of which those that matter to a row are read.
    Sparse(SparseWeight),
    /// Rows of several, one after the other.
    Stacked(Vec<Self>),
}

impl LinearWeight {
    /// Weights of a GGUF file, for a layer that computes in `dtype`.
    ///
    /// Blocks of integers stay as they are on the Flex backend. GPUs keep the bits of `Q8_0`, `Q4_0`, `Q4_1`
    /// and `Q4_K`, with the integers of a row in order. All else is widened to `dtype`.
    ///
    /// # Shapes
    ///
    /// - bytes: blocks of `[d_output, d_input]`, rows one after the other
    ///
    /// # Errors
    ///
    /// When a row does not consist of whole blocks, or the bytes are not as many.
    pub fn from_blocks(
        format: BlockFormat,
        [d_output, d_input]: [usize; 2],
        mut bytes: Vec<u8>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, BlockError> {
        let dims = [d_output, d_input];
        format.check(dims, bytes.len())?;
        if let Some(weight) = BlockWeight::new(format, dims, &mut bytes, dtype, device) {
            return Ok(Self::Blocks(weight));
        }
        Ok(Self::Full(widened(format, dims, &bytes, dtype, device)))
    }

    /// Bytes that blocks of such weights, `[d_output, d_input]`, take on a device that keeps them as they
    /// are; nothing where it does not, or a row does not consist of whole blocks.
    pub fn kept_bytes(format: BlockFormat, dims: [usize; 2], device: &Device) -> Option<u64> {
        BlockWeight::bytes_on(format, dims, device).ok().flatten()
    }

    /// Whether a device multiplies weights in f16 and bf16 with rows in any element type, as exactly as if they
    /// were widened.
    pub fn keeps_halves(device: &Device) -> bool {
        #[cfg(feature = "flex")]
        if crate::flex::runs_on(device) {
            return true;
        }
        let _ = device;
        false
    }

    /// Rows of several weights, one after the other: neighbours in an element type, or on a GPU in one
    /// format of blocks, in one piece, others side by side.
    ///
    /// # Panics
    ///
    /// When there is none, or their input channels differ.
    pub fn stack(weights: Vec<Self>) -> Self {
        let inputs: Vec<usize> = weights.iter().map(|weight| weight.dims()[1]).collect();
        assert!(
            !inputs.is_empty() && inputs.iter().all(|&d_input| d_input == inputs[0]),
            "weights of a merged layer: expected some of as many input channels, found {inputs:?}"
        );
        let mut stacked = Vec::<Self>::new();
        for weight in weights {
            match stacked.last().and_then(|last| last.joined(&weight)) {
                Some(joined) => *stacked.last_mut().expect("it was joined") = joined,
                None => stacked.push(weight),
            }
        }
        match stacked.len() {
            1 => stacked.remove(0),
            _ => Self::Stacked(stacked),
        }
    }

    /// Rows of both in one piece, where their form allows it.
    fn joined(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Full(first), Self::Full(second)) if first.dtype() == second.dtype() => {
                Some(Self::Full(joined(vec![first.clone(), second.clone()])))
            }
            (Self::Blocks(first), Self::Blocks(second)) => first.joined(second).map(Self::Blocks),
            _ => None,
        }
    }

    /// Output channels and input channels.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Full(weight) => weight.dims(),
            Self::Quantized(weight) => weight.dims(),
            Self::Blocks(weight) => weight.dims,
            Self::Sparse(weight) => weight.dims(),
            Self::Stacked(weights) => {
                let outputs = weights.iter().map(|weight| weight.dims()[0]).sum();
                [outputs, weights[0].dims()[1]]
            }
        }
    }

    /// The dtype of the rows that they are multiplied with; of whole ones, their own.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Full(weight) => weight.dtype(),
            Self::Quantized(weight) => weight.dtype(),
            Self::Blocks(weight) => weight.dtype,
            Self::Sparse(weight) => weight.dtype(),
            // Halves of both kinds are all numbers of f32.
            Self::Stacked(weights) => {
                let first = weights[0].dtype();
                let is_one = weights.iter().all(|weight| weight.dtype() == first);
                if is_one { first } else { DType::F32 }
            }
        }
    }

    /// Bytes of the weights and of what lies next to them.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Full(weight) => (weight.shape().num_elements() * weight.dtype().size()) as u64,
            Self::Quantized(weight) => weight.bytes(),
            Self::Blocks(weight) => weight.bytes(),
            Self::Sparse(weight) => weight.bytes(),
            Self::Stacked(weights) => weights.iter().map(Self::bytes).sum(),
        }
    }

    /// The weights one by one, in their [dtype](Self::dtype).
    ///
    /// # Shapes
    ///
    /// - output: `[d_output, d_input]`
    pub fn dequantize(&self) -> Tensor<2> {
        match self {
            Self::Full(weight) => weight.clone(),
            Self::Quantized(weight) => weight.dequantize(),
            Self::Blocks(weight) => weight.dequantize(),
            Self::Sparse(weight) => weight.dequantize(),
            Self::Stacked(weights) => {
                let dtype = self.dtype();
                let parts = weights.iter().map(|part| part.dequantize().cast(dtype));
                joined(parts.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_another_size_are_refused() {
        let device = Device::default();
        let weight = |d_input, bytes| {
            let bytes = vec![0; bytes];
            LinearWeight::from_blocks(BlockFormat::Q4_0, [2, d_input], bytes, DType::F32, &device)
        };
        assert_eq!(weight(64, 72).unwrap().dims(), [2, 64]);
        let error = weight(64, 71).unwrap_err().to_string();
        assert_eq!(
            error,
            "Q4_0 weights: expected 72 bytes for 128 weights, found 71"
        );
        let error = weight(40, 72).unwrap_err().to_string();
        assert_eq!(
            error,
            "Q4_0 weights: expected rows of a multiple of 32, found 40"
        );
    }
}
