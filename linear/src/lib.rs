//! Linear layers of few rows for [Burn](https://burn.dev), with weights in few bits.
//!
//! Decoding a token reads every weight of a model once, so what bounds it is the bytes of the weights.
//!
//! - [`blocks`] knows the blocks in which GGUF files keep them;
#![cfg_attr(
    feature = "native",
    doc = "- [`native`] multiplies rows with weights on the CPU, read where they lie."
)]
//!
//! ```
//! use quest_burn_linear::blocks::BlockFormat;
//!
//! # fn main() -> Result<(), quest_burn_linear::blocks::BlockError> {
//! // A block of `Q8_0`: the scale 0.5 in 16 bits, then 32 bytes.
//! let mut block = vec![0, 0x38];
//! block.extend(0..32);
//! let mut weights = [0.0; 32];
//! BlockFormat::Q8_0.dequantize(&block, &mut weights)?;
//! assert_eq!(weights[..3], [0.0, 0.5, 1.0]);
//! # Ok(())
//! # }
//! ```

pub mod blocks;
#[cfg(feature = "native")]
pub mod native;
