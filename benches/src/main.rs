//! Times the kernels of one layer's decode attention: page scores, page selection, attention over
//! the selected pages, all three together, and dense attention.
//!
//! Each measurement is captured once (a CUDA graph where the device has them) over several caches
//! in turn, so that the last-level cache does not serve them, and replayed. One JSON object per
//! line goes to stdout.

#[cfg(feature = "gpu")]
mod attention;
#[cfg(feature = "gpu")]
mod timing;

#[cfg(feature = "gpu")]
fn main() -> anyhow::Result<()> {
    attention::run(&clap::Parser::parse())
}

#[cfg(not(feature = "gpu"))]
fn main() -> anyhow::Result<()> {
    anyhow::bail!("compiled without a GPU backend: build with a feature such as cuda or vulkan")
}
