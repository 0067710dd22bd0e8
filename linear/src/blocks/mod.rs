//! The blocks in which GGUF files keep weights: so many neighbouring weights of a row in so many
//! bytes, with what they share.
//!
//! A format is a file and a line in the registry below; one whose blocks have heads that GPUs read says so
//! in its line. Formats are named and
//! numbered as in [ggml](https://github.com/ggml-org/ggml), and widened to the values that ggml's own
//! reference gives, to the last bit.

mod error;
mod float;
mod integers;
pub(crate) mod iq4_nl;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;

use core::fmt;

pub use error::BlockError;
pub(crate) use integers::{Integers, OnDevice, PART};
#[cfg(feature = "native")]
pub(crate) use integers::{bytes_at, half_at};

use self::{float::Float, integers::widen};

macro_rules! registry {
    (
        floats { $($(#[$float_doc:meta])* $float:ident,)* }
        integers { $($(#[$doc:meta])* $format:ident in $file:ident $(with $heads:ident)?,)* }
    ) => {
        /// How weights lie in a GGUF file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "ggml's names")]
        #[non_exhaustive]
        pub enum BlockFormat {
            $($(#[$float_doc])* $float,)*
            $($(#[$doc])* $format,)*
        }

        impl BlockFormat {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$float,)* $(Self::$format,)*];

            /// ggml's name of the format, as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$float => <float::$float as Float>::NAME,)*
                    $(Self::$format => <$file::$format as Integers>::NAME,)*
                }
            }

            /// ggml's number of the format, which GGUF files tell a tensor's format by.
            pub const fn ggml_type(self) -> u32 {
                match self {
                    $(Self::$float => <float::$float as Float>::GGML_TYPE,)*
                    $(Self::$format => <$file::$format as Integers>::GGML_TYPE,)*
                }
            }

            /// Neighbouring weights of a row that are a block.
            pub const fn weights_per_block(self) -> usize {
                match self {
                    $(Self::$float => 1,)*
                    $(Self::$format => <$file::$format as Integers>::PARTS * PART,)*
                }
            }

            /// Bytes of a block.
            pub const fn bytes_per_block(self) -> usize {
                match self {
                    $(Self::$float => <float::$float as Float>::BYTES,)*
                    $(Self::$format => <$file::$format as Integers>::BYTES,)*
                }
            }

            /// Whether weights are integers with scales.
            pub const fn is_integers(self) -> bool {
                match self {
                    $(Self::$float => false,)*
                    $(Self::$format => true,)*
                }
            }

            /// How a GPU keeps the format, if its kernels read it.
            #[cfg_attr(not(feature = "cube"), allow(dead_code))]
            pub(crate) const fn on_device(self) -> Option<OnDevice> {
                match self {
                    $(Self::$float => None,)*
                    $(Self::$format => <$file::$format as Integers>::ON_DEVICE,)*
                }
            }

            /// Widens whole blocks whose sizes were checked.
            fn widen(self, blocks: &[u8], weights: &mut [f32]) {
                match self {
                    $(Self::$float => widen_floats::<float::$float>(blocks, weights),)*
                    $(Self::$format => widen_integers::<$file::$format>(blocks, weights),)*
                }
            }
        }

        /// Runs a piece of code with the type of a format of integers.
        #[cfg(any(feature = "native", feature = "cube"))]
        macro_rules! with_integers {
            ($block_format:expr, $name:ident => $body:expr) => {
                match $block_format {
                    $($crate::blocks::BlockFormat::$format => {
                        type $name = $crate::blocks::$file::$format;
                        $body
                    })*
                    other => unreachable!("{other} weights are no integers"),
                }
            };
        }
        #[cfg(any(feature = "native", feature = "cube"))]
        pub(crate) use with_integers;

        /// Runs a piece of code with the type of a format whose heads a kernel reads.
        #[cfg(feature = "cube")]
        macro_rules! with_kernel {
            ($block_format:expr, $name:ident => $body:expr) => {
                match $block_format {
                    $($($crate::blocks::BlockFormat::$format => {
                        let _ = stringify!($heads);
                        type $name = $crate::blocks::$file::$format;
                        $body
                    })?)*
                    other => unreachable!("{other} blocks have no kernel of their own"),
                }
            };
        }
        #[cfg(feature = "cube")]
        pub(crate) use with_kernel;
    };
}

registry! {
    floats {
        /// 32-bit floats.
        F32,
        /// 16-bit floats.
        F16,
        /// The upper halves of 32-bit floats.
        BF16,
    }
    integers {
        /// 4 bits, 32 with a scale.
        Q4_0 in q4_0,
        /// 4 bits, 32 with a scale and a minimum.
        Q4_1 in q4_1 with heads,
        /// 5 bits, 32 with a scale.
        Q5_0 in q5_0,
        /// 5 bits, 32 with a scale and a minimum.
        Q5_1 in q5_1,
        /// 8 bits, 32 with a scale.
        Q8_0 in q8_0,
        /// 4 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
        Q4_K in q4_k with heads,
        /// 5 bits, 32 with a scale and a minimum of 6 bits, 256 with the scales of those.
        Q5_K in q5_k,
        /// 6 bits, 16 with a scale of 8 bits, 256 with the scale of those.
        Q6_K in q6_k,
        /// Indices of 16 values that lie closer around zero, 32 with a scale.
        IQ4_NL in iq4_nl,
    }
}

fn widen_floats<F: Float>(bytes: &[u8], weights: &mut [f32]) {
    for (bytes, weight) in bytes.chunks_exact(F::BYTES).zip(weights) {
        *weight = F::widen(bytes);
    }
}

fn widen_integers<F: Integers>(blocks: &[u8], weights: &mut [f32]) {
    let blocks = blocks.chunks_exact(F::BYTES);
    for (block, weights) in blocks.zip(weights.chunks_exact_mut(F::PARTS * PART)) {
        widen::<F>(block, weights, |half| half::f16::from_bits(half).to_f32());
    }
}

impl BlockFormat {
    /// The format of a number that a GGUF file gives.
    pub fn from_ggml_type(ggml_type: u32) -> Option<Self> {
        (Self::ALL.iter().copied()).find(|format| format.ggml_type() == ggml_type)
    }

    /// The format of such a name.
    pub fn from_name(name: &str) -> Option<Self> {
        (Self::ALL.iter().copied()).find(|format| format.name() == name)
    }

    /// Bytes of a row of so many weights.
    ///
    /// # Errors
    ///
    /// When they are no whole number of blocks, or more bytes than can be counted.
    pub fn row_bytes(self, weights: usize) -> Result<usize, BlockError> {
        let per_block = self.weights_per_block();
        if !weights.is_multiple_of(per_block) {
            return Err(BlockError::Row {
                format: self,
                weights,
            });
        }
        let bytes = (weights / per_block).checked_mul(self.bytes_per_block());
        bytes.ok_or(BlockError::TooLarge {
            format: self,
            weights,
        })
    }

    /// Checks that so many bytes are the rows of such weights, `[d_output, d_input]`.
    ///
    /// # Errors
    ///
    /// When a row does not consist of whole blocks, or there are too few bytes or too many.
    pub fn check(self, [d_output, d_input]: [usize; 2], bytes: usize) -> Result<(), BlockError> {
        let row = self.row_bytes(d_input)?;
        let weights = d_output.saturating_mul(d_input);
        let expected = row.checked_mul(d_output).ok_or(BlockError::TooLarge {
            format: self,
            weights,
        })?;
        if bytes != expected {
            return Err(BlockError::Bytes {
                format: self,
                weights,
                expected,
                found: bytes,
            });
        }
        Ok(())
    }

    /// Widens blocks to 32-bit floats.
    ///
    /// # Errors
    ///
    /// When `weights` are no whole number of blocks, or `blocks` are not the bytes of so many.
    pub fn dequantize(self, blocks: &[u8], weights: &mut [f32]) -> Result<(), BlockError> {
        self.check([1, weights.len()], blocks.len())?;
        self.widen(blocks, weights);
        Ok(())
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_numbers_and_names() {
        for &format in BlockFormat::ALL {
            assert_eq!(
                BlockFormat::from_ggml_type(format.ggml_type()),
                Some(format)
            );
            assert_eq!(BlockFormat::from_name(format.name()), Some(format));
        }
        // ggml's Q8_K, which is no format of files.
        assert_eq!(BlockFormat::from_ggml_type(15), None);
        assert_eq!(BlockFormat::from_name("Q3_K"), None);
    }

    #[test]
    fn bytes_of_a_row_are_those_of_its_blocks() {
        assert_eq!(BlockFormat::Q4_0.row_bytes(4096).unwrap(), 4096 / 32 * 18);
        assert_eq!(BlockFormat::Q4_K.row_bytes(4096).unwrap(), 4096 / 256 * 144);
        assert_eq!(BlockFormat::F16.row_bytes(3).unwrap(), 6);
        let error = BlockFormat::Q4_K.row_bytes(576).unwrap_err().to_string();
        assert_eq!(
            error,
            "Q4_K weights: expected rows of a multiple of 256, found 576"
        );
        let error = BlockFormat::F32.row_bytes(usize::MAX).unwrap_err();
        assert!(matches!(error, BlockError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn bytes_of_another_size_are_refused() {
        let mut weights = [0.0; 64];
        let error = BlockFormat::Q8_0.dequantize(&[0; 67], &mut weights);
        assert_eq!(
            error.unwrap_err().to_string(),
            "Q8_0 weights: expected 68 bytes for 64 weights, found 67"
        );
    }
}
