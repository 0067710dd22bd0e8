use half::{bf16, f16};

use crate::blocks::{BlockFormat, Integers, PART};

/// Weights of a linear layer, `[d_output, d_input]`, a row per output channel.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// In 32 bits.
    F32(&'a [f32]),
    /// In 16 bits.
    F16(&'a [f16]),
    /// In the upper 16 of 32 bits.
    BF16(&'a [bf16]),
    /// In the blocks of a format of integers.
    Blocks {
        /// The format.
        format: BlockFormat,
        /// The blocks.
        bytes: &'a [u8],
    },
    /// In words of 4 or 8 bits, with the scales of groups next to them.
    Groups(Groups<'a>),
}

/// Weights in 4 or 8 bits: `(q - zero) * scale`.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
    /// Weights that share a scale, a multiple of 32.
    pub group: usize,
    /// `[d_output, d_input * bits / 8]`; the first weight of a byte in its lower half.
    pub bytes: &'a [u8],
    /// `[d_output, d_input / group]`
    pub scales: &'a [f32],
    /// `[d_output, d_input / group]`; the middle of the range where there are none.
    pub zeros: Option<&'a [f32]>,
}

impl Weights<'_> {
    /// Whether rows of so many input channels are read.
    pub fn takes(&self, d_input: usize) -> bool {
        match self {
            Self::F32(_) | Self::F16(_) | Self::BF16(_) => d_input > 0,
            Self::Blocks { format, .. } => {
                format.is_integers()
                    && d_input > 0
                    && d_input.is_multiple_of(format.weights_per_block())
            }
            Self::Groups(Groups { bits, group, .. }) => {
                matches!(bits, 4 | 8)
                    && *group > 0
                    && group.is_multiple_of(PART)
                    && d_input > 0
                    && d_input.is_multiple_of(*group)
            }
        }
    }

    /// What the integers of weights are too large by; nothing where weights are floats.
    pub(super) fn offset(&self) -> Option<u8> {
        match *self {
            Self::F32(_) | Self::F16(_) | Self::BF16(_) => None,
            Self::Blocks { format, .. } => {
                Some(crate::blocks::with_integers!(format, F => F::OFFSET))
            }
            Self::Groups(Groups { zeros: Some(_), .. }) => Some(0),
            Self::Groups(Groups { bits, .. }) => Some(1 << (bits - 1)),
        }
    }

    /// Bytes of a weight row, without what lies next to it.
    pub(super) fn row_bytes(&self, d_input: usize) -> usize {
        match self {
            Self::F32(_) => d_input * 4,
            Self::F16(_) | Self::BF16(_) => d_input * 2,
            Self::Blocks { format, .. } => {
                d_input / format.weights_per_block() * format.bytes_per_block()
            }
            Self::Groups(Groups { bits, .. }) => d_input * bits / 8,
        }
    }

    /// Weight rows of `d_input` channels.
    ///
    /// # Panics
    ///
    /// When they are no whole rows, or scales are not as many.
    pub(super) fn rows(&self, d_input: usize) -> usize {
        assert!(
            self.takes(d_input),
            "weights: expected rows of whole blocks, found {d_input} input channels"
        );
        let bytes = match self {
            Self::F32(weights) => size_of_val(*weights),
            Self::F16(weights) => size_of_val(*weights),
            Self::BF16(weights) => size_of_val(*weights),
            Self::Blocks { bytes, .. } | Self::Groups(Groups { bytes, .. }) => bytes.len(),
        };
        let row = self.row_bytes(d_input);
        assert!(
            bytes.is_multiple_of(row),
            "weights: expected whole rows of {row} bytes, found {bytes} bytes"
        );
        let rows = bytes / row;
        if let Self::Groups(Groups {
            group,
            scales,
            zeros,
            ..
        }) = self
        {
            let expected = rows * (d_input / group);
            assert_eq!(scales.len(), expected, "scales of weights");
            assert!(
                zeros.is_none_or(|zeros| zeros.len() == expected),
                "zero points of weights: expected {expected}"
            );
        }
        rows
    }
}
