//! Benchmarks: the kernels of one layer's decode attention, whole decode steps, prefill.
//!
//! `quest bench` and the program `quest-bench` run them; the latter only those of the kernels, unless
//! it is built with the feature `models`. Each measurement becomes a line of JSON; the scripts in
//! `peers/` print lines of the same form, and `report.py` reads them all.
//!
//! A number is only given out for work that was done: every timed result is read back, must hold
//! no NaN, and is compared with the same operation computed untimed and, for one head, on the host.

mod attention;
mod bandwidth;
mod check;
#[cfg(feature = "models")]
mod decode;
#[cfg(feature = "models")]
mod engine;
mod error;
mod host;
mod layer;
#[cfg(feature = "models")]
mod lossless;
mod memory;
#[cfg(feature = "models")]
mod model;
mod options;
mod parse;
#[cfg(feature = "plot")]
mod plot;
#[cfg(feature = "models")]
mod prefill;
mod read;
mod record;
mod rows;
#[cfg(feature = "serve")]
mod serve;
mod table;
mod target;
mod timing;

pub use check::check;
pub use error::BenchError;
pub use options::BenchOptions;
pub use parse::{digest_kinds, digest_storages, kv_storages};
pub use record::{Kind, Record};
#[cfg(feature = "serve")]
pub use serve::{API_KEY_VARIABLE, ServeOptions, StartedServer};
pub use target::{Target, device_memory};
pub use timing::{Launch, Timing};

use rows::{Output, Rows};
