//! The attention layer and its rotary position embedding.

mod causal;
mod config;
mod convert;
mod norm;
mod project;
mod quest;
mod rope;

pub use config::QuestAttentionConfig;
pub use convert::ConversionError;
pub use norm::HeadNorms;
pub use project::project;
pub use quest::QuestAttention;
pub use quest_burn_linear::rms_norm;
pub use rope::{Rope, RopeConfig, RopeError, RopeScaling, Rotations};
