//! The attention layer and its rotary position embedding.

mod causal;
mod config;
mod convert;
mod project;
mod quest;
mod temperature;

pub use config::QuestAttentionConfig;
pub use convert::ConversionError;
pub use project::project;
pub use quest::QuestAttention;
pub use quest_burn_linear::rms_norm;
pub use temperature::Temperature;

pub use crate::{
    ops::{HeadNorms, Window},
    rope::{Rope, RopeConfig, RopeError, RopeScaling, Rotations},
};
