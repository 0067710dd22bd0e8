//! The accuracy experiments of the Quest paper (Tang et al., ICML 2024): protocols, metrics and
//! results, on the attention path that is timed. The `quest` program runs them.

pub mod longbench;
pub mod perplexity;
