#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod choose;
mod config;
mod engine;
mod error;
mod pages;
mod policies;
mod request;
mod sequence;
mod shared;
mod stats;
mod watch;
mod worker;

pub use answer::{Answer, Event, FinishReason, Finished, LayerRead, Token, Usage};
pub use config::EngineConfig;
pub use engine::Engine;
pub use error::{EngineError, SubmitError};
pub use quest_burn_models::sampling::TokenMask;
pub use request::{Adjustments, Policy, Request};
pub use stats::Stats;
