//! Decoding at the speed of the device: a whole step of a model, recorded once and replayed.
//!
//! Issued one by one, the launches of a decode step cost the host more time than the device takes
//! to do them. A [`DecodeGraph`] records the step of a [`DecodeModel`] once and replays it as one
//! dispatch. Newest tokens, positions and lengths are on the device, where the step itself moves
//! them on, so that a replay needs nothing from the host and steps can be queued one after the
//! other.
//!
//! A [`DraftGraph`] records two passes over one sequence: the step that drafts tokens, and the dense pass that
//! verifies them. A [`BatchGraph`] records the step of a batch that the host puts together anew before each replay,
//! from sequences whose pages it counts.
//!
//! Where the kernels do not run, the first two run the model step by step, by the same interface.

mod batch;
#[cfg(feature = "cube")]
mod captured;
#[cfg(feature = "cube")]
mod captured_batch;
#[cfg(feature = "cube")]
mod captured_drafts;
#[cfg(feature = "cube")]
mod choices;
mod config;
#[cfg(feature = "cube")]
mod device_ints;
mod drafts;
mod error;
mod graph;
mod greedy;
#[cfg(feature = "cube")]
mod row_choices;
mod run;
#[cfg(feature = "cube")]
mod step_graphs;
mod uncaptured;
mod uncaptured_drafts;

pub use batch::BatchGraph;
pub use config::DecodeGraphConfig;
pub use drafts::DraftGraph;
pub use error::DecodeError;
pub use graph::{DecodeGraph, DecodeModel};
