use core::{fmt, str::FromStr};

use burn::{
    config::Config,
    tensor::{DType, ExecutionError},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// In which form the weights of the layers' projections are kept.
///
/// Norms and biases are always in the dtype that is computed in; embeddings and the projection to logits are
/// where weights are not [stored](Self::Stored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// As a checkpoint has them: in the blocks of a GGUF file where the device [keeps
    /// them](crate::LinearWeight::kept_bytes), in f16 or bf16 where it [keeps
    /// those](crate::LinearWeight::keeps_halves), else in the dtype that is computed in.
    #[default]
    Stored,
    /// In the dtype that is computed in.
    Full,
    /// In 8 bits, symmetric around zero.
    Int8,
    /// In 4 bits with zero points.
    Int4,
}

impl WeightFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stored, Self::Full, Self::Int8, Self::Int4];

    /// The name by which programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Full => "full",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// What it is, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Stored => {
                "As the checkpoint has them: blocks of GGUF files stay as they are, with flex f16 and bf16 do too"
            }
            Self::Full => "In the element type",
            Self::Int8 => "In 8 bits, with a scale for each 128",
            Self::Int4 => "In 4 bits, with a scale and a zero point for each 128",
        }
    }

    /// How weights are rounded; nothing where they are not.
    pub fn quantization(self) -> Option<QuantizationConfig> {
        match self {
            Self::Stored | Self::Full => None,
            Self::Int8 => Some(QuantizationConfig::new(8)),
            Self::Int4 => Some(QuantizationConfig::new(4).with_asymmetric(true)),
        }
    }

    /// Bytes of the weights of a projection, of `dtype` where they are not rounded.
    ///
    /// # Errors
    ///
    /// When the input channels make no groups.
    pub fn bytes(
        self,
        d_output: usize,
        d_input: usize,
        dtype: DType,
    ) -> Result<u64, QuantizationError> {
        match self.quantization() {
            None => {
                let row = (d_input as u64).saturating_mul(dtype.size() as u64);
                Ok(row.saturating_mul(d_output as u64))
            }
            Some(config) => config.bytes(d_output, d_input, dtype),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = QuantizationError;

    fn from_str(name: &str) -> Result<Self, QuantizationError> {
        let named = Self::ALL.into_iter().find(|format| format.name() == name);
        named.ok_or_else(|| QuantizationError::Format(name.to_owned()))
    }
}

/// How the weights of a linear layer are rounded to a few bits.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
    /// Most neighbouring weights of a row that share a scale, a power of two from 16; where a row
    /// is not a multiple of it, as many as divide the row.
    #[config(default = 128)]
    pub group: usize,
    /// Whether a group's range goes from its minimum to its maximum, with a zero point;
    /// otherwise it is symmetric around zero.
    #[config(default = false)]
    pub asymmetric: bool,
}

/// Fewest weights that share a scale.
pub(super) const MIN_GROUP: usize = 16;

/// Weights that cannot be rounded as asked for.
#[derive(Error, Debug, Clone)]
pub enum QuantizationError {
    /// A name that is no form's.
    #[error("form of the weights: expected stored, full, int8 or int4, found {0}")]
    Format(String),
    /// The number of bits is not supported.
    #[error("quantised weights: expected 4 or 8 bits, found {0}")]
    Bits(usize),
    /// Groups are not supported.
    #[error("quantised weights: expected groups of a power of two from {MIN_GROUP}, found {0}")]
    Group(usize),
    /// A row does not consist of whole groups.
    #[error(
        "quantised weights: expected a multiple of {MIN_GROUP} input channels, found a layer of {0}"
    )]
    Input(usize),
    /// The outputs of an input channel are no whole groups.
    #[error(
        "quantised weights by input channels: expected a multiple of {MIN_GROUP} output channels, found a \
         layer of {0}"
    )]
    Output(usize),
    /// The device failed.
    #[error("quantised weights: the device failed: {0}")]
    Device(#[from] ExecutionError),
}

impl QuantizationConfig {
    /// Checks that the values are supported.
    ///
    /// # Errors
    ///
    /// See [`QuantizationError`].
    pub fn validate(&self) -> Result<(), QuantizationError> {
        if !matches!(self.bits, 4 | 8) {
            return Err(QuantizationError::Bits(self.bits));
        }
        if self.group < MIN_GROUP || !self.group.is_power_of_two() {
            return Err(QuantizationError::Group(self.group));
        }
        Ok(())
    }

    /// Weights that share a scale in a layer of `d_input` input channels.
    ///
    /// # Errors
    ///
    /// When the configuration is not valid, or the input channels make no groups.
    pub fn group_of(&self, d_input: usize) -> Result<usize, QuantizationError> {
        self.validate()?;
        if d_input == 0 || !d_input.is_multiple_of(MIN_GROUP) {
            return Err(QuantizationError::Input(d_input));
        }
        Ok(self.group.min(1 << d_input.trailing_zeros()))
    }

    /// Bytes of packed weights with their scales, and zero points, in `dtype`.
    ///
    /// # Errors
    ///
    /// When the configuration is not valid, or the input channels make no groups.
    pub fn bytes(
        &self,
        d_output: usize,
        d_input: usize,
        dtype: DType,
    ) -> Result<u64, QuantizationError> {
        let groups = d_input / self.group_of(d_input)?;
        let of_group = dtype.size() * if self.asymmetric { 2 } else { 1 };
        let row = (d_input / self.per_word() * size_of::<i32>() + groups * of_group) as u64;
        Ok(row.saturating_mul(d_output as u64))
    }

    /// The largest integer of a weight; the smallest is zero.
    pub(super) fn max(&self) -> i32 {
        (1 << self.bits) - 1
    }

    /// The zero point of symmetric weights.
    pub(super) fn middle(&self) -> i32 {
        1 << (self.bits - 1)
    }

    /// Weights of a 32-bit word.
    pub(super) fn per_word(&self) -> usize {
        32 / self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_largest_powers_of_two_that_divide_a_row() {
        let config = QuantizationConfig::new(4);
        for (d_input, group) in [(4096, 128), (704, 64), (48, 16), (11_008, 128), (32, 32)] {
            assert_eq!(config.group_of(d_input).unwrap(), group, "{d_input}");
        }
        assert_eq!(config.with_group(32).group_of(4096).unwrap(), 32);
    }

    #[test]
    fn what_cannot_be_packed_is_refused() {
        for (config, d_input, message) in [
            (
                QuantizationConfig::new(5),
                128,
                "expected 4 or 8 bits, found 5",
            ),
            (
                QuantizationConfig::new(4).with_group(48),
                128,
                "expected groups of a power of two from 16, found 48",
            ),
            (
                QuantizationConfig::new(4),
                40,
                "expected a multiple of 16 input channels, found a layer of 40",
            ),
        ] {
            let error = config.group_of(d_input).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
    }

    #[test]
    fn bytes_are_those_of_weights_scales_and_zero_points() {
        let bytes = |format: WeightFormat| format.bytes(10, 256, DType::F16).unwrap();
        assert_eq!(bytes(WeightFormat::Full), 5120);
        assert_eq!(bytes(WeightFormat::Int8), 2560 + 10 * 2 * 2);
        assert_eq!(bytes(WeightFormat::Int4), 1280 + 10 * 2 * 4);
    }

    #[test]
    fn formats_are_known_by_their_names() {
        for format in WeightFormat::ALL {
            assert_eq!(format.name().parse::<WeightFormat>().unwrap(), format);
        }
        let error = "int3".parse::<WeightFormat>().unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected stored, full, int8 or int4, found int3")
        );
    }
}
