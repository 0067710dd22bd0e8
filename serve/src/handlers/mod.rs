//! What is at which path.

mod answers;
mod models;
mod page;
mod status;
mod tokens;

pub(crate) use answers::{__path_chat, __path_completions, chat, completions};
pub(crate) use models::{__path_model, __path_models, model, models};
pub(crate) use page::{index, script, style};
pub(crate) use status::{__path_health, __path_metrics, health, metrics};
pub(crate) use tokens::{__path_detokenize, __path_tokenize, detokenize, tokenize};
