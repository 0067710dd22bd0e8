use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{QuantizationConfig, QuantizedWeight, linear::joined};
use crate::blocks::{BlockError, BlockFormat};

/// Weights of a linear layer, `[d_output, d_input]`, in one of the forms in which they are kept.
// A model has a few hundred of them.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinearWeight {
    /// In an element type.
    Full(Tensor<2>),
    /// In words of 4 or 8 bits, with the scales of groups.
    Quantized(QuantizedWeight),
    /// In the blocks of a GGUF file; on the Flex backend only.
    Blocks(BlockWeight),
    /// Rows of several, one after the other.
    Stacked(Vec<Self>),
}

/// Weights in blocks as they lie in a GGUF file, in the memory of the CPU.
#[derive(Clone, Debug)]
pub struct BlockWeight {
    format: BlockFormat,
    dims: [usize; 2],
    bytes: Arc<Vec<u8>>,
    dtype: DType,
    device: Device,
}

impl BlockWeight {
    /// The format of the blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// The blocks of all rows, one after the other.
    pub fn blocks(&self) -> &[u8] {
        &self.bytes
    }

    fn dequantize(&self) -> Tensor<2> {
        widened(
            self.format,
            self.dims,
            &self.bytes,
            self.dtype,
            &self.device,
        )
    }
}

impl LinearWeight {
    /// Weights of a GGUF file, for a layer that computes in `dtype`.
    ///
    /// On the Flex backend blocks of integers stay as they are. On other devices `Q8_0` and `Q4_0` become
    /// words of 8 and 4 bits where the dtype holds their scales, which is exact; all other formats are
    /// widened to `dtype`.
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
        bytes: Vec<u8>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, BlockError> {
        let dims = [d_output, d_input];
        format.check(dims, bytes.len())?;
        if keeps(format, device) {
            return Ok(Self::Blocks(BlockWeight {
                format,
                dims,
                bytes: Arc::new(bytes),
                dtype,
                device: device.clone(),
            }));
        }
        if matches!(dtype, DType::F32 | DType::F16)
            && let Some(weight) = in_words(format, dims, &bytes, dtype, device)
        {
            return Ok(Self::Quantized(weight));
        }
        Ok(Self::Full(widened(format, dims, &bytes, dtype, device)))
    }

    /// Bytes that blocks of such weights, `[d_output, d_input]`, take on a device that keeps them as they
    /// are; nothing where it does not, or a row does not consist of whole blocks.
    pub fn kept_bytes(format: BlockFormat, dims: [usize; 2], device: &Device) -> Option<u64> {
        let row = format.row_bytes(dims[1]).ok()?;
        keeps(format, device).then(|| (row as u64).saturating_mul(dims[0] as u64))
    }

    /// Rows of several weights, one after the other: in one piece where they are in an element type, side
    /// by side where not.
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
        if let [weight] = &weights[..] {
            return weight.clone();
        }
        let full = weights.iter().map(|weight| match weight {
            Self::Full(weight) => Some(weight.clone()),
            _ => None,
        });
        match full.collect::<Option<Vec<_>>>() {
            Some(full) => Self::Full(joined(full)),
            None => Self::Stacked(weights),
        }
    }

    /// Output channels and input channels.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Full(weight) => weight.dims(),
            Self::Quantized(weight) => weight.dims(),
            Self::Blocks(weight) => weight.dims,
            Self::Stacked(weights) => {
                let outputs = weights.iter().map(|weight| weight.dims()[0]).sum();
                [outputs, weights[0].dims()[1]]
            }
        }
    }

    /// The dtype of the rows that they are multiplied with.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Full(weight) => weight.dtype(),
            Self::Quantized(weight) => weight.dtype(),
            Self::Blocks(weight) => weight.dtype,
            Self::Stacked(weights) => weights[0].dtype(),
        }
    }

    /// Bytes of the weights and of what lies beside them.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Full(weight) => (weight.shape().num_elements() * weight.dtype().size()) as u64,
            Self::Quantized(weight) => weight.bytes(),
            Self::Blocks(weight) => weight.bytes.len() as u64,
            Self::Stacked(weights) => weights.iter().map(Self::bytes).sum(),
        }
    }

    /// The weights in the [dtype](Self::dtype) that is computed in.
    ///
    /// # Shapes
    ///
    /// - output: `[d_output, d_input]`
    pub fn dequantize(&self) -> Tensor<2> {
        match self {
            Self::Full(weight) => weight.clone(),
            Self::Quantized(weight) => weight.dequantize(),
            Self::Blocks(weight) => weight.dequantize(),
            Self::Stacked(weights) => joined(weights.iter().map(Self::dequantize).collect()),
        }
    }
}

/// Whether a device multiplies blocks as they are.
#[cfg_attr(not(feature = "flex"), allow(unused_variables))]
fn keeps(format: BlockFormat, device: &Device) -> bool {
    #[cfg(feature = "flex")]
    if crate::flex::runs_on(device) {
        return format.is_integers();
    }
    false
}

fn widened(
    format: BlockFormat,
    dims: [usize; 2],
    bytes: &[u8],
    dtype: DType,
    device: &Device,
) -> Tensor<2> {
    let mut weights = vec![0.0; dims[0] * dims[1]];
    (format.dequantize(bytes, &mut weights)).expect("the size of the blocks was checked");
    let weights = Tensor::<2>::from_data(TensorData::new(weights, dims), (device, DType::F32));
    weights.cast(dtype)
}

/// The same integers and scales in words, where a format has no more than those.
fn in_words(
    format: BlockFormat,
    [n, d_input]: [usize; 2],
    bytes: &[u8],
    dtype: DType,
    device: &Device,
) -> Option<QuantizedWeight> {
    const GROUP: usize = 32;
    let bits = match format {
        BlockFormat::Q8_0 => 8,
        BlockFormat::Q4_0 => 4,
        _ => return None,
    };
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    for block in bytes.chunks_exact(format.bytes_per_block()) {
        let (scale, block) = block.split_at(2);
        scales.push(burn::tensor::f16::from_le_bytes([scale[0], scale[1]]));
        let integers: Vec<u8> = if bits == 8 {
            block.iter().map(|byte| byte ^ 0x80).collect()
        } else {
            // Neighbours share a byte in words; in blocks, those 16 apart do.
            let (low, high) = (|i: usize| block[i] & 0xf, |i: usize| block[i] >> 4);
            let pair = |i: usize| match 2 * i {
                first @ 0..16 => low(first) | low(first + 1) << 4,
                first => high(first - 16) | high(first - 15) << 4,
            };
            (0..GROUP / 2).map(pair).collect()
        };
        let of_word = |word: &[u8]| i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        words.extend(integers.chunks_exact(4).map(of_word));
    }
    let words = TensorData::new(words, [n, d_input * bits / 32]);
    let scales = TensorData::new(scales, [n, d_input / GROUP]);
    let weight = QuantizedWeight::from_packed(
        QuantizationConfig::new(bits).with_group(GROUP),
        Tensor::<2, Int>::from_data(words, (device, DType::I32)),
        Tensor::<2>::from_data(scales, (device, dtype)),
        None,
    );
    Some(weight.expect("rows of whole blocks of 32 are rows of whole groups"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_blocks_are_the_weights_of_the_blocks() {
        let device = Device::default();
        for format in [BlockFormat::Q4_0, BlockFormat::Q8_0] {
            let mut bytes: Vec<u8> = (0..format.row_bytes(3 * 64).unwrap())
                .map(|i| (i * 37 % 251) as u8)
                .collect();
            for (i, block) in bytes.chunks_exact_mut(format.bytes_per_block()).enumerate() {
                let scale = burn::tensor::f16::from_f32(0.01 * (i as f32 - 2.0));
                block[..2].copy_from_slice(&scale.to_le_bytes());
            }
            for dtype in [DType::F32, DType::F16] {
                let expected = widened(format, [3, 64], &bytes, dtype, &device);
                let words = in_words(format, [3, 64], &bytes, dtype, &device).unwrap();
                (words.reference().into_data()).assert_eq(&expected.into_data(), true);
            }
        }
    }

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
