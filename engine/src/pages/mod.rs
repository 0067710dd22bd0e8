//! Who holds which page of the pool, and which pages are kept for sequences that begin alike.

mod prefix;
mod store;

pub(crate) use prefix::Origin;
pub(crate) use store::{PageStore, Prefix};
