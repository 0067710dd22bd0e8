//! Text generation and scoring with a [`CausalLm`](crate::model::CausalLm) over a paged KV cache.
//!
//! A [`Generator`] is an iterator of token ids: it prefills the prompt in chunks, then decodes one
//! token at a time, whose attention reads the pages that a policy chooses. [`Policies`] says what prompts
//! attend to, where that is not everything.
//! [`negative_log_likelihoods`] scores given ids along the same two ways.

mod answer;
mod config;
mod decode;
mod error;
mod forward;
mod generator;
mod likelihood;
mod policies;
mod prefill;
mod text;
mod timings;

pub use answer::Finish;
pub use config::{GenerationConfig, check_context, check_ids};
pub use decode::{batch_graph, decode_graph, draft_graph};
pub use error::GenerateError;
pub use generator::Generator;
pub use likelihood::{LikelihoodMode, negative_log_likelihoods};
pub use policies::Policies;
pub use prefill::{MIN_CHUNK, chunk_end, prefill};
pub use text::TextDecoder;
pub use timings::Timings;

pub(crate) use answer::{Answer, Due};
pub(crate) use forward::{Forward, capacity, read};
pub(crate) use likelihood::score;
pub(crate) use prefill::{ChunkDone, rows};

#[cfg(test)]
pub(crate) mod tests;
