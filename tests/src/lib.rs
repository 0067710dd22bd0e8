//! Helpers that the tests share: checkpoints, golden fixtures, devices and naive oracles.

pub mod arrays;
pub mod catalogue;
pub mod checkpoint;
pub mod devices;
pub mod filled;
pub mod fixtures;
pub mod gguf;
pub mod gguf_of_folder;
pub mod layer;
pub mod loaded;
pub mod naive;
pub mod packed_checkpoint;
pub mod poison;
pub mod session;
pub mod small_model;
pub mod tokenizer;

use proptest::test_runner::{Config, RngSeed};

/// The seed of drawn inputs: a fixed one, or what `QUEST_TEST_SEED` says, a number or `random`. A
/// change is judged on the same inputs as the one before; new ones are looked for on purpose.
///
/// # Panics
///
/// When `QUEST_TEST_SEED` is neither.
pub fn seed() -> u64 {
    match std::env::var("QUEST_TEST_SEED").as_deref() {
        Ok("random") => rand::random(),
        Ok(number) => number
            .parse()
            .expect("QUEST_TEST_SEED is a number or `random`"),
        Err(_) => 42,
    }
}

/// How a property is tried: on 24 cases, or as many as `PROPTEST_CASES` says, drawn from [`seed`].
pub fn cases() -> Config {
    let default = Config::default();
    Config {
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => default.cases,
            None => 24,
        },
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..default
    }
}

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
