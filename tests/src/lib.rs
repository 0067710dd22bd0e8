//! Helpers that the tests share: checkpoints, golden fixtures, devices and naive oracles.

pub mod arrays;
pub mod catalogue;
pub mod checkpoint;
pub mod devices;
pub mod filled;
pub mod fixtures;
pub mod gguf;
pub mod layer;
pub mod loaded;
pub mod naive;
pub mod packed_checkpoint;
pub mod poison;
pub mod session;
pub mod tokenizer;

use proptest::test_runner::Config;

/// How many cases a property is tried with: 24, or as many as `PROPTEST_CASES` says.
pub fn cases() -> Config {
    let default = Config::default();
    Config {
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => default.cases,
            None => 24,
        },
        failure_persistence: None,
        ..default
    }
}

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
