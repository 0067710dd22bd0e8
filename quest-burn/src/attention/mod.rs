//! The attention layer and its rotary position embedding.

mod causal;
mod config;
mod convert;
mod project;
mod quest;

pub use config::QuestAttentionConfig;
pub use convert::ConversionError;
pub use project::project;
pub use quest::QuestAttention;
pub use quest_burn_linear::rms_norm;

pub use crate::{
    ops::HeadNorms,
    rope::{Rope, RopeConfig, RopeError, RopeScaling, Rotations},
};
