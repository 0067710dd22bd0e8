//! Every kernel against a plain computation on the host, in every dtype of the device.
//!
//! Runs on the device that `BURN_DEVICE` names, else on the first that is compiled in. Pools are
//! NaN where no token was written; outputs are allocated over NaN.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal"
))]

mod append;
mod attention;
mod bench;
mod captured;
mod cases;
mod few_tokens;
mod numbers;
mod packed;
mod reference;
mod refusals;
mod selection;
mod top_k_attention;
