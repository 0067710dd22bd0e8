//! Oracles in plain Rust and f64: slow, short, and sharing no code with what they judge.

mod attention;
mod digest;
mod eviction;
mod layer;
mod lazy;
mod model;
mod rope;

pub use attention::{attend, select_pages};
pub use digest::{digest, digest_score, page_score, scaled_digest_score};
pub use eviction::{Evicting, Kept};
pub use lazy::{HowMany, Lazy, LazyRun};
pub use model::{Cache, Model};
pub use rope::Rope;
