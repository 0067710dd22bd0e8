use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};

#[cfg(feature = "cube")]
use super::device_blocks::{self, DeviceBlocks};
use crate::blocks::{BlockError, BlockFormat};
#[cfg(feature = "cube")]
use crate::kernels::linear::KernelWeight;

/// Weights in the blocks of a GGUF file, on a device that multiplies them as they are.
#[derive(Clone, Debug)]
pub struct BlockWeight {
    pub(super) format: BlockFormat,
    pub(super) dims: [usize; 2],
    pub(super) dtype: DType,
    place: Place,
}

#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "flex"), allow(dead_code))]
#[allow(clippy::large_enum_variant, reason = "there is one per layer")]
enum Place {
    /// As they lie in the file, in the memory of the CPU.
    Host { bytes: Arc<Vec<u8>>, device: Device },
    /// Bit by bit in words, in the memory of a GPU.
    #[cfg(feature = "cube")]
    Device(DeviceBlocks),
}

impl BlockWeight {
    /// Nothing where the device does not multiply blocks of the format; their size was checked.
    pub(super) fn new(
        format: BlockFormat,
        dims: [usize; 2],
        bytes: &mut Vec<u8>,
        dtype: DType,
        device: &Device,
    ) -> Option<Self> {
        let place = |place| Self {
            format,
            dims,
            dtype,
            place,
        };
        #[cfg(feature = "flex")]
        if crate::flex::runs_on(device) {
            return format.is_integers().then(|| {
                place(Place::Host {
                    bytes: Arc::new(core::mem::take(bytes)),
                    device: device.clone(),
                })
            });
        }
        #[cfg(feature = "cube")]
        if device_blocks::keeps(format, device) {
            let blocks = DeviceBlocks::new(format, dims, bytes, device);
            return Some(place(Place::Device(blocks)));
        }
        let _ = (place, bytes, device);
        None
    }

    /// Bytes of such weights on a device, if it keeps them.
    pub(super) fn bytes_on(
        format: BlockFormat,
        dims: [usize; 2],
        device: &Device,
    ) -> Result<Option<u64>, BlockError> {
        let row = format.row_bytes(dims[1])?;
        #[cfg(feature = "flex")]
        if crate::flex::runs_on(device) {
            let bytes = (row as u64).saturating_mul(dims[0] as u64);
            return Ok(format.is_integers().then_some(bytes));
        }
        #[cfg(feature = "cube")]
        if device_blocks::keeps(format, device) {
            return Ok(Some(device_blocks::bytes(format, dims, device)));
        }
        let _ = (row, device);
        Ok(None)
    }

    /// The format of the blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// The blocks of all rows, one after the other, where they are in the memory of the CPU.
    pub fn blocks(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Host { bytes, .. } => Some(bytes.as_slice()),
            #[cfg(feature = "cube")]
            Place::Device(_) => None,
        }
    }

    /// As the kernels take them, where they are in the memory of a GPU.
    #[cfg(feature = "cube")]
    pub fn kernel_weight(&self) -> Option<KernelWeight> {
        match &self.place {
            Place::Host { .. } => None,
            Place::Device(blocks) => Some(blocks.kernel_weight()),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match &self.place {
            Place::Host { bytes, .. } => bytes.len() as u64,
            #[cfg(feature = "cube")]
            Place::Device(blocks) => device_blocks::bytes(self.format, self.dims, &blocks.device()),
        }
    }

    pub(super) fn dequantize(&self) -> Tensor<2> {
        match &self.place {
            Place::Host { bytes, device } => {
                widened(self.format, self.dims, bytes, self.dtype, device)
            }
            #[cfg(feature = "cube")]
            Place::Device(blocks) => blocks.widen(self.dtype),
        }
    }

    /// Rows of both, one after the other, where they are on a GPU in one format.
    pub(super) fn joined(&self, other: &Self) -> Option<Self> {
        #[cfg(feature = "cube")]
        if let (Place::Device(first), Place::Device(second)) = (&self.place, &other.place)
            && (self.format, self.dtype) == (other.format, other.dtype)
        {
            return Some(Self {
                dims: [self.dims[0] + other.dims[0], self.dims[1]],
                place: Place::Device(first.joined(second)),
                ..*self
            });
        }
        let _ = other;
        None
    }
}

/// Blocks widened on the host.
pub(super) fn widened(
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
