use burn::tensor::{DType, Int, Tensor, assert_shape};

use super::super::check::check_dtype;
use crate::blocks::BlockFormat;

/// Words of the widest load of one unit, 16 bytes of them.
const WORDS: usize = 4;
/// Bits of a word.
const WORD_BITS: usize = 32;

/// Weights of a linear layer, `[d_output, d_input]`, in a form that the kernels read.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one is made per launch")]
pub enum KernelWeight {
    /// In an element type.
    Full(Tensor<2>),
    /// In words of 4 or 8 bits, with the scales of groups.
    Groups(PackedWeight),
    /// In words of 4 bits, with the heads of a format's blocks.
    Blocks(PackedBlocks),
}

impl KernelWeight {
    /// Output and input channels.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Full(weight) => weight.dims(),
            Self::Groups(weight) => weight.dims(),
            Self::Blocks(weight) => weight.dims(),
        }
    }
}

impl From<Tensor<2>> for KernelWeight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Full(weight)
    }
}

impl From<PackedWeight> for KernelWeight {
    fn from(weight: PackedWeight) -> Self {
        Self::Groups(weight)
    }
}

impl From<PackedBlocks> for KernelWeight {
    fn from(weight: PackedBlocks) -> Self {
        Self::Blocks(weight)
    }
}

/// Weights of a GGUF file on the device: the integers of its blocks in order, and what else a block
/// has, bit by bit.
#[derive(Clone, Debug)]
pub struct PackedBlocks {
    /// `[d_output, d_input * bits / 32]` in i32; the first weight of a word in its lowest bits.
    pub(crate) words: Tensor<2, Int>,
    /// `[d_output, blocks * head words]` in i32.
    pub(crate) heads: Tensor<2, Int>,
    pub(crate) format: BlockFormat,
    pub(crate) packing: Packing,
}

impl PackedBlocks {
    /// Output and input channels.
    pub fn dims(&self) -> [usize; 2] {
        let [n, words] = self.words.dims();
        [n, words * self.packing.per_word()]
    }

    /// The format of the blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    pub(crate) fn packing(&self) -> Packing {
        self.packing
    }
}

/// Weights of a linear layer in 4 or 8 bits: `(q - zero) * scale`.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    /// `[d_output, d_input * bits / 32]` in i32; the first weight of a word in its lowest bits.
    pub words: Tensor<2, Int>,
    /// `[d_output, groups]`, each for as many neighbouring weights of a row.
    pub scales: Tensor<2>,
    /// `[d_output, groups]`, integers; the middle of the range where there are none.
    pub zeros: Option<Tensor<2>>,
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
}

impl PackedWeight {
    /// Output and input channels.
    pub fn dims(&self) -> [usize; 2] {
        let [n, words] = self.words.dims();
        [n, words * WORD_BITS / self.bits]
    }

    /// How the weights are packed.
    ///
    /// # Panics
    ///
    /// When shapes or dtypes do not fit together, or groups are not whole loads of one unit.
    pub(crate) fn packing(&self) -> Packing {
        assert!(
            matches!(self.bits, 4 | 8),
            "bits of packed weights: expected 4 or 8, found {}",
            self.bits
        );
        let [n, d_input] = self.dims();
        let [_, groups] = self.scales.dims();
        assert_shape!(self.scales, [n, groups]);
        assert!(
            groups > 0 && d_input.is_multiple_of(groups),
            "groups of packed weights: expected a number that divides the {d_input} inputs, found \
             {groups}"
        );
        let group = d_input / groups;
        assert!(
            group >= 16 && group.is_power_of_two(),
            "group of packed weights: expected a power of two from 16, found {group}"
        );
        check_dtype("words of packed weights", self.words.dtype(), DType::I32);
        if let Some(zeros) = &self.zeros {
            assert_shape!(zeros, [n, groups]);
            check_dtype("zero points", zeros.dtype(), self.scales.dtype());
        }
        Packing {
            bits: self.bits,
            group,
            asymmetric: self.zeros.is_some(),
            ..Packing::WHOLE
        }
    }
}

/// How weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
    /// Neighbouring weights of a row that share a scale.
    pub group: usize,
    /// Whether a group has a zero point of its own; otherwise it is the middle of the range, or zero
    /// where there are minima.
    pub asymmetric: bool,
    /// Whether a group has a minimum, which is added to its weights.
    pub minima: bool,
    /// Groups of a head.
    pub groups_per_head: usize,
    /// Elements of a head.
    pub head_words: usize,
}

impl Packing {
    /// That of weights in an element type, which are not packed.
    pub(crate) const WHOLE: Self = Self {
        bits: 0,
        group: 0,
        asymmetric: false,
        minima: false,
        groups_per_head: 1,
        head_words: 1,
    };

    /// Whether weights are not packed.
    pub(crate) fn is_whole(&self) -> bool {
        self.bits == 0
    }

    /// Weights of a word.
    pub fn per_word(&self) -> usize {
        WORD_BITS / self.bits
    }

    /// Words of one load; they have one scale.
    pub fn words(&self) -> usize {
        WORDS.min(self.group / self.per_word())
    }

    /// Weights of one load.
    pub fn per_load(&self) -> usize {
        self.words() * self.per_word()
    }

    /// Loads that share a scale.
    pub fn loads_per_group(&self) -> usize {
        self.group / self.per_load()
    }

    /// Loads that share a head.
    pub fn loads_per_head(&self) -> usize {
        self.loads_per_group() * self.groups_per_head
    }

    /// What is subtracted from every integer that has no zero point.
    pub fn offset(&self) -> f32 {
        if self.minima { 0.0 } else { self.middle() }
    }

    /// The value in the middle of the range: the zero point of symmetric weights.
    pub fn middle(&self) -> f32 {
        (1 << (self.bits - 1)) as f32
    }

    /// How the `index`-th weight of a word becomes a number.
    pub fn place(&self, index: usize) -> Place {
        // As many as the mantissa has room for may stay where they are.
        let at_once = MANTISSA_BITS / self.bits;
        let down = index / at_once * at_once * self.bits;
        let bit = index * self.bits - down;
        Place {
            down: down as i32,
            mask: ((1 << self.bits) - 1) << bit,
            factor: (1 << bit) as f32,
        }
    }
}

/// Bits of the mantissa of f32 that are stored.
const MANTISSA_BITS: usize = 23;

/// Where a weight lies in a word.
///
/// The bits of an integer below 2^23, put under the exponent of 2^23, are the float `2^23 + integer`.
/// So a weight need not be shifted to the lowest bits: elsewhere it is a number `factor` times as
/// large, and what it is multiplied with is made as much smaller. Most weights of a word become
/// numbers by one operation on bits and one subtraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Bits that the word is shifted down.
    pub down: i32,
    /// The weight's bits, then.
    pub mask: i32,
    /// Of the lowest of them.
    pub factor: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_of_a_word_is_found_where_its_place_says() {
        for bits in [4, 8] {
            let packing = Packing {
                bits,
                group: 128,
                ..Packing::WHOLE
            };
            let word = 0x9bd3_70e5_u32 as i32;
            for index in 0..packing.per_word() {
                let expected = (word as u32 >> (index * bits)) & ((1 << bits) - 1);
                let Place { down, mask, factor } = packing.place(index);
                let found = (word >> down) & mask;
                assert!(mask < 1 << MANTISSA_BITS, "{mask:#x}");
                assert_eq!(found as f32, expected as f32 * factor, "{bits}, {index}");
            }
        }
    }

    #[test]
    fn a_load_lies_within_a_group() {
        for (bits, group, words, loads) in [
            (4, 128, 4, 4),
            (8, 128, 4, 8),
            (4, 16, 2, 1),
            (4, 32, 4, 1),
            (8, 16, 4, 1),
        ] {
            let packing = Packing {
                bits,
                group,
                asymmetric: true,
                ..Packing::WHOLE
            };
            let found = (packing.words(), packing.loads_per_group());
            assert_eq!(found, (words, loads), "{bits} bits, groups of {group}");
        }
    }
}
