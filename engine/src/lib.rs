#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod config;
mod engine;
mod error;
mod request;
mod stats;

pub use answer::{Answer, Event, FinishReason, Finished, LayerRead, Token, Usage};
pub use config::EngineConfig;
pub use engine::Engine;
pub use error::{EngineError, SubmitError};
pub use request::{Adjustments, Policy, Request, TokenMask};
pub use stats::Stats;
