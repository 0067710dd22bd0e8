//! The operations as native code for the Flex backend: vector instructions, threads, and the
//! paged cache read where it lies.
//!
//! | file | what it is |
//! |---|---|
//! | `append`, `scores`, `select`, `attention`, `prefill` | one operation each |
//! | `int8` | digests in 8 bits: packing them, scoring pages by them |
//! | `columns` | keys and values of a block, laid out for prompts |
//! | `rows` | dot products with rows of a page, and weighted sums of them |
//! | `softmax` | exponentials of a row of scores |
//! | `element`, `lanes` | f32, f16, bf16 and integers of 8 bits as vectors of f32 |
//! | `pool`, `parallel` | a cache's memory, threads |
//!
//! Sums are kept in f32 whatever the dtype of the cache, and half-precision keys and values are
//! widened in registers. What is split over threads depends on the number of pages only, and
//! partial results are merged in order, so that results do not depend on the number of threads.

mod append;
mod attention;
mod columns;
mod element;
mod int8;
mod lanes;
mod parallel;
pub(crate) mod pool;
mod prefill;
mod rows;
mod scores;
mod select;
mod softmax;

pub(crate) use append::append;
pub(crate) use attention::{paged_attention, top_k_attention};
pub(crate) use int8::{packed, quantize_digests};
pub(crate) use prefill::{prefill_attention, sparse_prefill_attention};
pub(crate) use scores::page_scores;
pub(crate) use select::top_pages;

/// Runs a piece of code with the element type of a cache's dtype.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            burn::tensor::DType::F32 => {
                type $element = f32;
                $body
            }
            burn::tensor::DType::F16 => {
                type $element = burn::tensor::f16;
                $body
            }
            burn::tensor::DType::BF16 => {
                type $element = burn::tensor::bf16;
                $body
            }
            other => unreachable!("the caller asks whether {other:?} is supported"),
        }
    };
}
use with_element;

use burn::tensor::{DType, Device};
pub(crate) use quest_burn_linear::flex::runs_on;

use crate::cache::{Int8Rows, KvRows, LayerCache};

/// Whether this code runs on tensors of a dtype on a device.
pub(crate) fn supports(device: &Device, dtype: DType) -> bool {
    // The bytes of a word of packed digests are channels in their order.
    cfg!(target_endian = "little")
        && runs_on(device)
        && matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Whether this code reads the cache of a layer on such a device as it lies.
pub(crate) fn reads(cache: &LayerCache) -> bool {
    let pool = &cache.pool;
    let are_read = |rows: &KvRows| match rows {
        KvRows::Full(rows) => rows.dtype() == pool.dtype() && pool::is_contiguous(rows),
        KvRows::Int8(Int8Rows { words, scales }) => {
            pool::is_contiguous(words) && pool::is_contiguous(scales)
        }
    };
    pool.keys.storage() == pool.values.storage()
        && are_read(&pool.keys)
        && are_read(&pool.values)
        && pool::is_contiguous(&pool.digests.rows)
        && pool.digests.int8.as_ref().is_none_or(int8::reads)
}
