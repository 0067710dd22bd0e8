//! The paged KV cache: a pool of pages per layer, a page table per sequence, a digest per page.
//!
//! | tensor | shape |
//! |---|---|
//! | keys, values (one layer) | `[n_pages, n_kv_heads, page_size, head_dim]`, a pool shared by the batch |
//! | digests | `[n_pages, n_kv_heads, rows, channels]`: what is kept of a page's keys, see [`digest`](crate::digest) |
//! | digests in 8 bits, if asked for | words `[n_kv_heads, n_pages, rows, head_dim / 4]` and scales, see [`Int8Digests`] |
//! | keys, values in 8 bits, if asked for | words `[n_pages, n_kv_heads, page_size, head_dim / 4]` and a scale per row, see [`Int8Rows`] |
//! | page table | `[batch, max_pages]`: logical page -> pool page, the same in every layer |
//!
//! Keys are stored after RoPE. All layers hold the same tokens, so one page table serves them.

mod assigned;
#[cfg(feature = "cube")]
mod captured;
mod config;
mod contiguous;
mod digests;
mod entropies;
mod error;
mod kv_rows;
mod layer;
mod packing;
mod paged;
mod past;
mod pool;
#[cfg(feature = "cube")]
mod recorded_lists;
mod resize;
mod states;
mod step;
mod table;

pub use assigned::AssignedPages;
#[cfg(feature = "cube")]
pub(crate) use captured::PoolId;
pub use config::PagedKvCacheConfig;
pub(crate) use config::validate_page_size;
pub use contiguous::contiguous;
#[cfg(feature = "cube")]
pub(crate) use contiguous::{ints, zeros};
#[cfg(feature = "cube")]
pub(crate) use digests::stored_scales;
pub(crate) use digests::{
    CHANNELS_PER_SCALE, CHANNELS_PER_WORD, MIN_SCALE, OUTWARD, SCALE_OF_LARGEST, check_head_dim,
    n_scales,
};
pub use digests::{DigestStorage, Int8Digests};
pub(crate) use entropies::Entropies;
pub use error::CacheError;
#[cfg(any(feature = "cube", feature = "flex"))]
pub(crate) use kv_rows::LARGEST_INTEGER;
pub use kv_rows::{Int8Rows, KvRows, KvStorage};
pub use layer::LayerCache;
pub(crate) use packing::integers_of_words;
#[doc(hidden)]
pub use packing::quantized;
pub use paged::PagedKvCache;
pub use pool::{Digests, KvPool, Sequences};
#[cfg(feature = "cube")]
pub(crate) use recorded_lists::{DeviceLists, RecordedLists};
pub use states::{PolicyState, PolicyStates};
pub use step::{Phase, Step};
#[cfg(feature = "cube")]
pub(crate) use table::page_table_entries;
