//! Linear layers of few rows for [Burn](https://burn.dev), with weights in few bits.
//!
//! Decoding a token reads every weight of a model once, so what bounds it is the bytes of the weights.
//! [`blocks`] knows the blocks in which GGUF files keep them.

pub mod blocks;
pub mod native;
