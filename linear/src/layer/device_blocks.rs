//! Blocks on a GPU: the integers in words, in order, and what else blocks have besides.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::contiguous::joined;
use crate::{
    blocks::{BlockFormat, Integers, OnDevice, PART, with_integers},
    kernels::{
        device::{supported, supports},
        linear::{self, KernelWeight, PackedBlocks, PackedWeight, Packing},
    },
};

/// Weights whose kernels read them in the bits of their blocks.
#[derive(Clone, Debug)]
pub(super) struct DeviceBlocks(KernelWeight);

/// Whether the device's kernels read blocks of the format.
pub(super) fn keeps(format: BlockFormat, device: &Device) -> bool {
    format.on_device().is_some() && supported(device)
}

/// Bytes of so many weights.
pub(super) fn bytes(format: BlockFormat, [n, d_input]: [usize; 2], device: &Device) -> u64 {
    let (bits, heads) = match format.on_device() {
        None => return 0,
        Some(OnDevice::Scales { bits }) => (bits, d_input / PART * scale_dtype(device).size()),
        Some(OnDevice::Heads { bits, words }) => {
            let blocks = d_input / format.weights_per_block();
            (bits, blocks * words * size_of::<i32>())
        }
    };
    ((d_input * bits / 8 + heads) as u64).saturating_mul(n as u64)
}

/// What holds a scale of 16 bits as it is.
fn scale_dtype(device: &Device) -> DType {
    match supports(device, DType::F16, 1) {
        true => DType::F16,
        false => DType::F32,
    }
}

impl DeviceBlocks {
    /// # Panics
    ///
    /// When the device does not keep the format.
    pub(super) fn new(
        format: BlockFormat,
        [n, d_input]: [usize; 2],
        bytes: &[u8],
        device: &Device,
    ) -> Self {
        let on_device = format.on_device().expect("the caller asks what is kept");
        let ints = |words: Vec<i32>| {
            let shape = [n, words.len() / n.max(1)];
            Tensor::<2, Int>::from_data(TensorData::new(words, shape), (device, DType::I32))
        };
        let parts = with_integers!(format, F => Parts::of::<F>(bytes, on_device));
        let words = ints(parts.words);
        Self(match on_device {
            OnDevice::Scales { bits } => {
                let scales = TensorData::new(parts.scales, [n, d_input / PART]);
                let scales = Tensor::<2>::from_data(scales, (device, DType::F32));
                KernelWeight::Groups(PackedWeight {
                    words,
                    scales: scales.cast(scale_dtype(device)),
                    zeros: None,
                    bits,
                })
            }
            OnDevice::Heads {
                bits,
                words: head_words,
            } => KernelWeight::Blocks(PackedBlocks {
                words,
                heads: ints(parts.heads),
                format,
                packing: Packing {
                    bits,
                    group: PART,
                    asymmetric: false,
                    minima: true,
                    groups_per_head: format.weights_per_block() / PART,
                    head_words,
                },
            }),
        })
    }

    /// As the kernels take it.
    pub(super) fn kernel_weight(&self) -> KernelWeight {
        self.0.clone()
    }

    pub(super) fn widen(&self, dtype: DType) -> Tensor<2> {
        linear::widen(self.0.clone(), dtype)
    }

    pub(super) fn device(&self) -> Device {
        match &self.0 {
            KernelWeight::Full(weight) => weight.device(),
            KernelWeight::Groups(weight) => weight.words.device(),
            KernelWeight::Blocks(weight) => weight.words.device(),
        }
    }

    /// Rows of both, which are of one format.
    pub(super) fn joined(&self, other: &Self) -> Self {
        Self(match (self.0.clone(), other.0.clone()) {
            (KernelWeight::Groups(first), KernelWeight::Groups(second)) => {
                KernelWeight::Groups(PackedWeight {
                    words: joined(vec![first.words, second.words]),
                    scales: joined(vec![first.scales, second.scales]),
                    ..first
                })
            }
            (KernelWeight::Blocks(first), KernelWeight::Blocks(second)) => {
                KernelWeight::Blocks(PackedBlocks {
                    words: joined(vec![first.words, second.words]),
                    heads: joined(vec![first.heads, second.heads]),
                    ..first
                })
            }
            _ => unreachable!("blocks of one format are kept alike"),
        })
    }
}

/// What blocks have, each kind by itself.
#[derive(Default)]
struct Parts {
    words: Vec<i32>,
    scales: Vec<f32>,
    heads: Vec<i32>,
}

impl Parts {
    fn of<F: Integers>(bytes: &[u8], on_device: OnDevice) -> Self {
        let mut parts = Self::default();
        let (OnDevice::Scales { bits } | OnDevice::Heads { bits, .. }) = on_device;
        for block in bytes.chunks_exact(F::BYTES) {
            for part in 0..F::PARTS {
                let integers = F::integers(block, part);
                let words = integers.chunks_exact(32 / bits).map(|integers| {
                    let integers = integers.iter().rev();
                    integers.fold(0u32, |word, &integer| word << bits | u32::from(integer))
                });
                parts.words.extend(words.map(|word| word as i32));
            }
            match on_device {
                OnDevice::Scales { .. } => {
                    let scales =
                        F::scales(block, |half| burn::tensor::f16::from_bits(half).to_f32());
                    parts
                        .scales
                        .extend((0..F::PARTS).map(|part| F::scale(&scales, part)[0]));
                }
                OnDevice::Heads { words, .. } => {
                    let head = F::head(block);
                    parts
                        .heads
                        .extend(head[..words].iter().map(|&word| word as i32));
                }
            }
        }
        parts
    }
}
