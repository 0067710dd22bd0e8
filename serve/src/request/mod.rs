//! Bodies of requests, taken apart field by field: an error names the field, and what this server does not
//! know is refused.

mod chat;
mod completion;
mod format;
mod generation;
mod messages;
mod params;
mod tokens;
mod tools;
mod unique_keys;

pub(crate) use chat::ChatRequest;
pub(crate) use completion::{CompletionRequest, Prompt};
pub(crate) use format::Asked;
pub(crate) use generation::{Generation, random, unknown_model};
pub(crate) use tokens::{TokenizeRequest, Tokenized, detokenize};
